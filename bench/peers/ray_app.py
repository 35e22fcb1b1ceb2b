"""Ray Serve as its documentation shows it: `@serve.batch` around a pipeline (https://docs.ray.io/en/latest/serve)."""

import os

from ray import serve
from starlette.requests import Request
from transformers import pipeline


@serve.deployment(max_ongoing_requests=64, ray_actor_options={"num_cpus": 1})
class Sentiment:
    """A transformers pipeline behind Ray Serve. One request is a list of texts."""

    def __init__(self):
        self.classify = pipeline("text-classification", model=os.environ["MODEL"], device="cpu")

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.005)
    async def score(self, requests):
        texts = [text for request in requests for text in request]
        results = iter(self.classify(texts, batch_size=32, truncation=True, max_length=512))
        return [[next(results) for _ in request] for request in requests]

    async def __call__(self, request: Request):
        return {"scores": await self.score((await request.json())["texts"])}


if __name__ == "__main__":
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ["PORT"])})
    serve.run(Sentiment.bind(), blocking=True)

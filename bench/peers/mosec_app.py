"""mosec as its documentation shows it: one worker, batches formed by the server (https://mosecorg.github.io/mosec)."""

import os

from mosec import Server, Worker
from transformers import pipeline


class Sentiment(Worker):
    """A transformers pipeline behind mosec. One request is a list of texts."""

    def __init__(self):
        self.classify = pipeline("text-classification", model=os.environ["MODEL"], device="cpu")

    def forward(self, data):
        texts = [text for request in data for text in request["texts"]]
        results = iter(self.classify(texts, batch_size=32, truncation=True, max_length=512))
        return [{"scores": [next(results) for _ in request["texts"]]} for request in data]


if __name__ == "__main__":
    server = Server()
    server.append_worker(Sentiment, num=1, max_batch_size=32, max_wait_time=5, timeout=60_000)
    server.run()

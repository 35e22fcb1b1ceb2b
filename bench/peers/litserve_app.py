"""LitServe as its documentation shows it: a plain handler with batches of 32 (https://lightning.ai/docs/litserve)."""

import os

import litserve
from transformers import pipeline


class Sentiment(litserve.LitAPI):
    """A transformers pipeline behind LitServe. One request is one text."""

    def setup(self, device):
        self.classify = pipeline("text-classification", model=os.environ["MODEL"], device="cpu")

    def decode_request(self, request):
        return request["texts"]

    def predict(self, batch):
        texts = [text for texts in batch for text in texts]
        results = iter(self.classify(texts, batch_size=32, truncation=True, max_length=512))
        return [[next(results) for _ in texts] for texts in batch]

    def encode_response(self, output):
        return {"scores": output}


if __name__ == "__main__":
    api = Sentiment(max_batch_size=32, batch_timeout=0.005)
    litserve.LitServer(api, accelerator="cpu").run(port=int(os.environ["PORT"]), generate_client_file=False)

"""Services in memory, over `httpx.MockTransport`, and clients of them."""

import json
from dataclasses import dataclass, field

import httpx

from remote_rewards import RewardClient

TEXTS = ["a", "bb", "ccc"]


class Service:
    """A service in memory that scores completions by their length."""

    def __init__(self, *, max_request_texts=2, max_body_bytes=10_000, revisions=()):
        self.max_request_texts, self.max_body_bytes = max_request_texts, max_body_bytes
        self.revisions = list(revisions)
        """The revision of each scoring request in turn, then always "1"."""
        self.counts = []
        """Completions of each scoring request."""

    def info(self):
        return {
            "max_request_texts": self.max_request_texts,
            "max_body_bytes": self.max_body_bytes,
            "max_queue_texts": 9,
        }

    def __call__(self, request):
        if request.method == "GET":
            info = {"service": "remote-rewards", "version": "1", "rewards": [], "default": [], "limits": self.info()}
            return httpx.Response(200, json=info)
        completions = json.loads(request.content)["completions"]
        if len(completions) > self.max_request_texts or len(request.content) > self.max_body_bytes:
            return self.too_large()
        self.counts.append(len(completions))
        reward = {"scores": [float(len(text)) for text in completions]}
        reward["revision"] = self.revisions.pop(0) if self.revisions else "1"
        return self.scores({"echo": reward})

    def scores(self, rewards):
        return httpx.Response(
            200, json={"rewards": rewards, "request_id": "1", "timing": {"queue_ms": 0, "compute_ms": 0}}
        )

    def too_large(self):
        problem = {
            "title": "t",
            "status": 413,
            "detail": "d",
            "code": "too_large",
            "request_id": "1",
            "retryable": False,
        }
        return httpx.Response(413, json=problem, headers={"Content-Type": "application/problem+json"})


@dataclass
class Replicas:
    """Services by host."""

    services: dict[str, Service] = field(default_factory=dict)

    def __call__(self, request):
        return self.services[request.url.host](request)


def client_of(service, urls="http://a", **options):
    return RewardClient(urls, transport=httpx.MockTransport(service), **options)


def echo(client, texts=TEXTS, **options):
    reward = client.score(texts, rewards=["echo"], **options).rewards["echo"]
    return reward.scores, reward.revision

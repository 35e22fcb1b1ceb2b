"""What the service tells Prometheus. Observers are called with plain numbers; nothing else knows the library."""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from reward_service.batching.batcher import BatchDone
from reward_service.batching.cache import CacheLookup
from shared.schemas import RewardInfo, ScoreResponse

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
TOKENS = (16, 64, 256, 1024, 2048, 4096, 8192, 16384)
REASONS = {
    "overloaded": "queue_full",
    "deadline_exceeded": "deadline",
    "not_ready": "loading",
    "draining": "draining",
    "too_large": "too_large",
}
SCORES = (-4, -2, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 8)


class Metrics:
    """One registry per service, so that two in one process do not mix."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter("reward_requests", "Requests", ["route", "code"], registry=registry)
        self.texts = Counter("reward_texts", "Texts scored", ["reward"], registry=registry)
        self.request_seconds = Histogram(
            "reward_request_seconds", "Whole request", ["route"], buckets=SECONDS, registry=registry
        )
        self.queue_seconds = Histogram(
            "reward_queue_seconds",
            "Oldest text's wait before its batch",
            ["reward"],
            buckets=SECONDS,
            registry=registry,
        )
        self.inference_seconds = Histogram(
            "reward_inference_seconds",
            "One batch on the device",
            ["reward"],
            buckets=SECONDS,
            registry=registry,
        )
        self.batch_size = Histogram("reward_batch_size", "Texts a batch", ["reward"], buckets=SIZES, registry=registry)
        self.batch_tokens = Histogram(
            "reward_batch_tokens",
            "Tokens a batch, padding included",
            ["reward"],
            buckets=TOKENS,
            registry=registry,
        )
        self.padding = Histogram(
            "reward_padding_ratio",
            "Share of a batch that is padding",
            ["reward"],
            buckets=(0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75),
            registry=registry,
        )
        self.depth = Gauge("reward_queue_depth", "Texts that wait", registry=registry)
        self.inflight = Gauge("reward_inflight", "Requests under way", registry=registry)
        self.rejected = Counter("reward_rejected", "Requests turned away", ["reason"], registry=registry)
        self.nonfinite = Counter("reward_nonfinite", "Scores that were no number", ["reward"], registry=registry)
        self.truncated = Counter("reward_truncated", "Texts read in part", ["reward"], registry=registry)
        self.cache_hits = Counter("reward_cache_hits", "Texts known already", ["reward"], registry=registry)
        self.cache_misses = Counter("reward_cache_misses", "Texts not known yet", ["reward"], registry=registry)
        self.score = Histogram("reward_score", "Scores given", ["reward"], buckets=SCORES, registry=registry)
        labels = ["name", "revision", "kind", "backend", "dtype"]
        self.model_info = Gauge("reward_model_info", "What scores", labels, registry=registry)

    def observe(self, reward: str, event: BatchDone | CacheLookup) -> None:
        """Count one batch, or one look into the cache."""
        if isinstance(event, CacheLookup):
            self.cache_hits.labels(reward).inc(event.hits)
            self.cache_misses.labels(reward).inc(event.misses)
            return
        self.queue_seconds.labels(reward).observe(event.wait_s)
        self.inference_seconds.labels(reward).observe(event.compute_s)
        self.batch_size.labels(reward).observe(event.texts)
        self.batch_tokens.labels(reward).observe(event.padded_tokens)
        self.padding.labels(reward).observe(1 - event.tokens / max(1, event.padded_tokens))

    def record_response(self, response: ScoreResponse) -> None:
        """Count the scores of one response."""
        for name, reward in response.rewards.items():
            self.texts.labels(name).inc(len(reward.scores) - len(reward.errors))
            self.truncated.labels(name).inc(len(reward.truncated))
            self.nonfinite.labels(name).inc(sum(e.code == "not_finite" for e in reward.errors.values()))
            for score in reward.scores:
                if score is not None:
                    self.score.labels(name).observe(score)

    def record_rejection(self, code: str) -> None:
        """Count a request that was refused for its size, the queue's or its time."""
        if code in REASONS:
            self.rejected.labels(REASONS[code]).inc()

    def loaded(self, infos: Iterable[RewardInfo], depth: Callable[[], float]) -> None:
        """Say what scores now, and where the queue's depth is read."""
        self.model_info.clear()
        for info in infos:
            engine = (info.engine.backend, info.engine.dtype) if info.engine else ("", "")
            self.model_info.labels(info.name, info.revision, info.kind, *engine).set(1)
        self.depth.set_function(depth)

    def render(self) -> bytes:
        """Give all of it in Prometheus' text format."""
        return generate_latest(self.registry)

"""Prometheus metrics. The only module that uses prometheus_client."""

import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.samples import Sample

from reward_service.batching.batcher import BatchDone
from reward_service.batching.cache import CacheLookup
from reward_service.drift import ScoreDrift
from shared.schemas import RewardInfo, ScoreResponse

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
TOKENS = (16, 64, 256, 1024, 2048, 4096, 8192, 16384)
RATIOS = (0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75)
SCORES = (-4, -2, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 8)


class Metrics:
    """The metrics of one service, in a registry of its own: two services in one process do not mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = self._counter("reward_requests", "Requests", "route", "code")
        self.request_seconds = self._histogram("reward_request_seconds", "Request latency", SECONDS, "route")
        self.inflight = self._gauge("reward_inflight", "Requests in flight")
        self.rejected = self._counter("reward_rejected", "Scoring requests answered with an error, by code", "reason")
        self.texts = self._counter("reward_texts", "Scored texts", "reward")
        self.pinned = self._counter(
            "reward_pinned_requests", "Requests pinned to the revision served", "reward", "revision"
        )
        self.pinned_s = -math.inf
        """When a pinned request was last answered, on the monotonic clock."""
        self.score = self._histogram("reward_score", "Scores", SCORES, "reward")
        self.score_drift = self._gauge(
            "reward_score_drift", "How far the recent scores are above or below the first ones", "reward", "direction"
        )
        self._drifts: dict[tuple[str, str], ScoreDrift] = {}  # by name and revision, of the loaded rewards
        self.truncated = self._counter("reward_truncated", "Truncated texts", "reward")
        self.nonfinite = self._counter("reward_nonfinite", "Non-finite scores", "reward")
        self.depth = self._gauge("reward_queue_depth", "Queued texts")
        self.backlog_s = self._gauge("reward_backlog_seconds", "Estimated compute time of the queued texts")
        self.queue_seconds = self._histogram(
            "reward_queue_seconds", "Queueing time of a batch's oldest text", SECONDS, "reward"
        )
        self.inference_seconds = self._histogram(
            "reward_inference_seconds", "Inference time of a batch", SECONDS, "reward"
        )
        self.batch_size = self._histogram("reward_batch_size", "Texts per batch", SIZES, "reward")
        self.batch_tokens = self._histogram("reward_batch_tokens", "Tokens per batch, with padding", TOKENS, "reward")
        self.padding = self._histogram("reward_padding_ratio", "Share of padding in a batch", RATIOS, "reward")
        self.cache_hits = self._counter("reward_cache_hits", "Cache hits", "reward")
        self.cache_misses = self._counter("reward_cache_misses", "Cache misses", "reward")
        self.model_info = self._gauge(
            "reward_model_info", "Loaded rewards", "name", "revision", "kind", "backend", "dtype"
        )

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(name, help_text, labels, registry=self.registry)

    def _gauge(self, name: str, help_text: str, *labels: str) -> Gauge:
        return Gauge(name, help_text, labels, registry=self.registry)

    def _histogram(self, name: str, help_text: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(name, help_text, labels, buckets=buckets, registry=self.registry)

    def observe(self, reward: str, event: BatchDone | CacheLookup) -> None:
        """Record one batch or one cache lookup of a reward."""
        if isinstance(event, CacheLookup):
            self.cache_hits.labels(reward).inc(event.hits)
            self.cache_misses.labels(reward).inc(event.misses)
            return
        self.queue_seconds.labels(reward).observe(event.wait_s)
        self.inference_seconds.labels(reward).observe(event.compute_s)
        self.batch_size.labels(reward).observe(event.texts)
        self.batch_tokens.labels(reward).observe(event.padded_tokens)
        self.padding.labels(reward).observe(1 - event.tokens / max(1, event.padded_tokens))

    def record_request(self, route: str, status: int, seconds: float) -> None:
        """Record one request: its route, status and latency."""
        self.requests.labels(route, status).inc()
        self.request_seconds.labels(route).observe(seconds)

    def record_response(self, response: ScoreResponse) -> None:
        """Record the scores of one response."""
        for name, reward in response.rewards.items():
            self.texts.labels(name).inc(len(reward.scores) - len(reward.errors))
            self.truncated.labels(name).inc(len(reward.truncated))
            self.nonfinite.labels(name).inc(sum(error.code == "not_finite" for error in reward.errors.values()))
            histogram, drift = self.score.labels(name), self._drifts.get((name, reward.revision))
            for score in reward.scores:
                if score is not None:
                    histogram.observe(score)
                    if drift is not None:  # else a reload has replaced the reward
                        drift.add(score)

    def record_pins(self, pins: Mapping[str, str]) -> None:
        """Record a request that is pinned to these revisions, all of which are served."""
        for name, revision in pins.items():
            self.pinned.labels(name, revision).inc()
            self.pinned_s = time.monotonic()

    def record_rejection(self, code: str) -> None:
        """Record a scoring request that was answered with an error instead of scores."""
        self.rejected.labels(code).inc()

    def record_loaded(
        self, infos: Iterable[RewardInfo], *, depth: Callable[[], float], backlog_s: Callable[[], float]
    ) -> None:
        """Record which rewards are loaded. Drift is measured anew.

        `depth` returns the number of queued texts, `backlog_s` their estimated compute time in seconds.
        """
        self.model_info.clear()
        self.score_drift.clear()
        self._drifts.clear()
        for info in infos:
            engine = (info.engine.backend, info.engine.dtype) if info.engine else ("", "")
            self._drifts[info.name, info.revision] = ScoreDrift()
            self.model_info.labels(info.name, info.revision, info.kind, *engine).set(1)
        self.depth.set_function(depth)
        self.backlog_s.set_function(backlog_s)

    def total(self, series: str, **labels: Collection[str]) -> float:
        """Return the sum of a series, such as `reward_rejected_total`, over the given values of its labels, or all."""
        samples = (sample for family in self.registry.collect() for sample in family.samples if sample.name == series)
        return sum(
            sample.value for sample in samples if all(sample.labels[name] in values for name, values in labels.items())
        )

    def samples(self) -> Iterator[Sample]:
        """Yield every sample of the metrics that are named in the documentation, `reward_…`."""
        self._measure_drift()
        for family in self.registry.collect():
            if family.name.startswith("reward_"):
                yield from (sample for sample in family.samples if not sample.name.endswith("_created"))

    def render(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        self._measure_drift()
        return generate_latest(self.registry)

    def _measure_drift(self) -> None:
        for (name, _), drift in self._drifts.items():
            if distance := drift.distance():
                self.score_drift.labels(name, "up").set(distance.up)
                self.score_drift.labels(name, "down").set(distance.down)

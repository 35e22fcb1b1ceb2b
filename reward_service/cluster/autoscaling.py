"""Decide how many replicas an application needs, from the service's own metrics. Pure: no Ray, no clock.

The signals and their targets are those of the autoscaler in `deploy/kubernetes`, with those of its component
`keda-functions` for rewards that call code instead of computing a model.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from reward_service.errors import DeadlineExceeded, Overloaded
from reward_service.metrics import Metrics

BUSY = "reward_inference_seconds_sum"
"""Its rate is the share of time in which a replica's models compute."""
REJECTED = "reward_rejected_total"
"""Its rate, for the reasons in `BACKLOG_REASONS`, is the number of requests per second that find the queue full."""
BACKLOG = "reward_backlog_seconds"
"""Estimated time to compute all queued texts: it grows with the load where the busy share of a replica ends at 1."""
IN_FLIGHT = "reward_inflight"
BACKLOG_REASONS = (Overloaded.code, DeadlineExceeded.code)
TARGETS = {BUSY: 0.7, REJECTED: 0.1, BACKLOG: 5.0}
"""The value of each signal per replica above which there are too few replicas."""
TARGET_IN_FLIGHT = 4.0
"""The same for the requests in flight to rewards that call code, whose computing time no metric has."""
CALLING_KINDS = {"function", "math"}


def targets_for(kinds: Iterable[str]) -> dict[str, float]:
    """Return the signals, with their targets, by which rewards of these kinds are scaled."""
    return TARGETS | ({IN_FLIGHT: TARGET_IN_FLIGHT} if CALLING_KINDS & set(kinds) else {})


def desired_replicas(signals: Mapping[str, float], targets: Mapping[str, float]) -> int:
    """Return the smallest number of replicas at which every signal is within its target; at least 1.

    `signals` has the sum of each signal over all replicas.
    """
    return max(1, *(math.ceil(signals.get(name, 0.0) / target) for name, target in targets.items()))


class BacklogPolicy:
    """A policy of Ray Serve's autoscaler: Serve bounds the result and delays the change."""

    def __init__(self, targets: Mapping[str, float]) -> None:
        self.targets = targets

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """Return the desired number of replicas, and no state. `context` is an `AutoscalingContext`."""
        reported = context.aggregated_metrics or {}
        signals = {name: sum(by_replica.values()) for name, by_replica in reported.items()}
        return desired_replicas(signals, self.targets), {}


class SignalReader:
    """Reads the signals of one replica from its metrics."""

    def __init__(self, metrics: Metrics, now_s: float) -> None:
        self._metrics, self._read_s = metrics, now_s
        self._totals = self._read_totals()

    def read(self, now_s: float) -> dict[str, float]:
        """Return the signals now: counters as rates since the previous reading, in which some time has passed."""
        before, self._totals = self._totals, self._read_totals()
        elapsed_s, self._read_s = now_s - self._read_s, now_s
        rates = {name: (total - before[name]) / elapsed_s for name, total in self._totals.items()}
        return rates | {name: self._metrics.total(name) for name in (BACKLOG, IN_FLIGHT)}

    def _read_totals(self) -> dict[str, float]:
        rejected = self._metrics.total(REJECTED, reason=BACKLOG_REASONS)
        return {BUSY: self._metrics.total(BUSY), REJECTED: rejected}

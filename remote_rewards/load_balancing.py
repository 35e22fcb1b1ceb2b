"""Choose among the replicas of a service, and eject failing ones. The clock is passed in.

An endpoint that fails is ejected for a growing time (Envoy's outlier detection); afterwards one call probes it (half
open). An endpoint may be a load balancer: the instances of the service behind it are told apart by a header of their
responses.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from remote_rewards.backoff import exponential_s
from remote_rewards.concurrency_limit import ConcurrencyLimiter
from shared.errors import InternalServerError, RewardError

BASE_EJECTION_S = 0.1
MAX_EJECTION_S = 1.5
"""Upper bound of the time until a recovered endpoint is probed."""
MAX_RETRY_AFTER_S = 10.0
GIVE_UP_ON_500_S = 20.0
"""Calls are given up when all endpoints have responded with nothing but 500 for this time."""
BUSY_REQUESTS = 2
"""Requests for each replica from which on a further call is not cut: all replicas are busy, and a cut only costs."""


@dataclass
class Endpoint:
    """One replica: its calls in flight, its latest failures, and its concurrency limit."""

    url: str
    outstanding: int = 0
    """Calls that wait for the limiter or are in flight."""
    last_used_s: float = 0.0
    consecutive_failures: int = 0
    ejected_until_s: float = 0.0
    half_open: bool = False
    """Whether a call is probing the endpoint after its ejection."""
    throttled_until_s: float = 0.0
    """When the first of the instances behind the URL has room again."""
    last_error: RewardError | None = None
    internal_errors_since_s: float | None = None
    """When the first of its latest responses arrived if all of them were 500."""
    limiter: ConcurrencyLimiter = field(init=False, repr=False, compare=False)
    _throttled_until_s: dict[str, float] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.limiter = ConcurrencyLimiter(self.url)

    @property
    def load(self) -> float:
        """Return the outstanding calls as a share of the concurrency limit."""
        return self.outstanding / self.limiter.limit

    @property
    def replicas(self) -> int:
        """Return the number of replicas that the URL stands for, as far as that is known."""
        return max(1, len(self.limiter.instances))

    @property
    def alternatives(self) -> list["Endpoint"]:
        """Return the endpoint itself if its URL leads to further replicas."""
        return [self] if self.replicas > 1 else []

    def is_available(self, now_s: float) -> bool:
        """Return whether a call may be sent: after a failure only by one probing call, once the ejection has ended."""
        return self.consecutive_failures == 0 or (now_s >= self.ejected_until_s and not self.half_open)

    @contextmanager
    def in_flight(self, *, now_s: float) -> Iterator[None]:
        """Count a call from the moment its endpoint is picked, so that the next pick takes it into account."""
        probing = self.consecutive_failures > 0
        self.half_open = self.half_open or probing
        self.outstanding += 1
        self.last_used_s = now_s
        try:
            yield
        finally:
            self.outstanding -= 1
            self.half_open = self.half_open and not probing

    def record_overload(self, retry_after_s: float | None, instance: str | None = None, *, now_s: float) -> None:
        """Throttle the endpoint until a queue has room again, once all its instances are full. This is no failure."""
        self.throttled_until_s = now_s + min(MAX_RETRY_AFTER_S, retry_after_s or 0.0)
        if instance is not None:
            throttled = {**self._throttled_until_s, instance: self.throttled_until_s}
            self._throttled_until_s = {name: throttled.get(name, 0.0) for name in {*self.limiter.instances, instance}}
            self.throttled_until_s = min(self._throttled_until_s.values())
        self.internal_errors_since_s = None

    def record_failure(self, error: RewardError, *, now_s: float) -> None:
        """Eject the endpoint, twice as long after each consecutive failure."""
        self.ejected_until_s = now_s + min(MAX_EJECTION_S, exponential_s(BASE_EJECTION_S, self.consecutive_failures))
        self.consecutive_failures += 1
        self.last_error = error
        since_s = now_s if self.internal_errors_since_s is None else self.internal_errors_since_s
        self.internal_errors_since_s = since_s if isinstance(error, InternalServerError) else None

    def record_success(self) -> None:
        """Return the endpoint to service."""
        self.consecutive_failures, self.ejected_until_s = 0, 0.0
        self.last_error, self.internal_errors_since_s = None, None


def pick(endpoints: Sequence[Endpoint], *, now_s: float) -> Endpoint | None:
    """Return the available endpoint with the least load, round robin among equals; None if none is available.

    A throttled endpoint is the last choice until the time it named.
    """
    available = (endpoint for endpoint in endpoints if endpoint.is_available(now_s))
    return min(available, key=lambda one: (one.throttled_until_s > now_s, one.load, one.last_used_s), default=None)


def replicas_for_a_call(endpoints: Sequence[Endpoint], spread: int, requests: int, *, now_s: float) -> int:
    """Return over how many replicas to spread one call: all that are available, or one if they are busy already.

    `spread` is the number that the service tells, `requests` the number of those that calls in progress consist of.
    """
    available = [one for one in endpoints if one.is_available(now_s) and one.throttled_until_s <= now_s]
    replicas = max(spread, sum(endpoint.replicas for endpoint in available))
    return replicas if requests < BUSY_REQUESTS * replicas else 1


def any_available(endpoints: Sequence[Endpoint], *, now_s: float) -> bool:
    """Return whether a call could be sent to one of the endpoints now."""
    return any(endpoint.is_available(now_s) and endpoint.throttled_until_s <= now_s for endpoint in endpoints)


def next_available_in_s(endpoints: Sequence[Endpoint], *, now_s: float, min_s: float = 0.02) -> float:
    """Return the time until the first ejection ends, at least `min_s`."""
    return max(min_s, min(endpoint.ejected_until_s for endpoint in endpoints) - now_s)


def give_up_s(endpoints: Sequence[Endpoint], *, started_s: float, deadline_s: float) -> float:
    """Return when to give up a call: its deadline, or sooner if all its endpoints respond with nothing but 500.

    A call that starts later still tries for `GIVE_UP_ON_500_S`, since the failure may be over.
    """
    failing_since_s = [since_s for one in endpoints if (since_s := one.internal_errors_since_s) is not None]
    if not failing_since_s or len(failing_since_s) < len(endpoints):
        return deadline_s
    return min(deadline_s, max(started_s, *failing_since_s) + GIVE_UP_ON_500_S)

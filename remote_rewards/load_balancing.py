"""Choose among the replicas of a service, eject failing ones, and limit the calls to each. The clock is passed in.

An endpoint that fails is ejected for a growing time (Envoy's outlier detection); afterwards one call probes it (half
open). The calls in flight to an endpoint are limited by additive increase and multiplicative decrease.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from anyio import CapacityLimiter

from shared.errors import InternalServerError, Overloaded, RewardError, ServiceUnreachable

BASE_EJECTION_S = 0.1
MAX_EJECTION_S = 1.5
"""Upper bound of the time until a recovered endpoint is probed."""
MAX_RETRY_AFTER_S = 10.0
GIVE_UP_ON_500_S = 20.0
"""Calls are given up when all endpoints have responded with nothing but 500 for this time."""
MAX_CONCURRENCY = 16
"""Calls in flight per client and endpoint: enough to fill a service's batches."""
MAX_EXPONENT = 30


def exponential_s(base_s: float, exponent: int) -> float:
    """Return `base_s` doubled `exponent` times; the exponent is capped, so that the result is always a float."""
    return base_s * 2.0 ** min(exponent, MAX_EXPONENT)


def backoff_s(
    attempt: int, *, fraction: float, retry_after_s: float | None = None, base_s: float = 0.2, max_s: float = 10.0
) -> float:
    """Return the delay after failed attempt number `attempt` (from 0).

    Exponential backoff with full jitter (Brooker, "Exponential Backoff and Jitter", 2015): the caller passes
    `fraction`, uniform in [0, 1). `Retry-After` is a lower bound, up to `max_s`.
    """
    return min(max_s, max(min(max_s, exponential_s(base_s, attempt)) * fraction, retry_after_s or 0.0))


class LimiterTimeout(ServiceUnreachable):
    """The concurrency limit was exhausted until the attempt timed out. This is no failure of the service."""


@dataclass(slots=True)
class AimdLimit:
    """A concurrency limit: additive increase, multiplicative decrease (Chiu and Jain, 1989), as in TCP."""

    limit: float = MAX_CONCURRENCY
    """Calls allowed in flight; the integer part counts."""
    decreases: int = 0
    """Number of decreases so far. A call notes it when it is sent, so that one overload decreases the limit once."""

    def on_success(self) -> None:
        """Increase the limit by one per `limit` successes."""
        self.limit = min(MAX_CONCURRENCY, self.limit + 1 / self.limit)

    def on_overload(self, decreases_when_sent: int) -> None:
        """Halve the limit, unless it was halved after the rejected call was sent."""
        if decreases_when_sent == self.decreases:
            self.limit = max(1.0, self.limit / 2)
            self.decreases += 1


class ConcurrencyLimiter:
    """Limits the calls in flight to one endpoint; waiting calls are admitted first in, first out."""

    def __init__(self, url: str, limit: AimdLimit | None = None) -> None:
        self._url, self.aimd = url, limit or AimdLimit()
        self._tokens = CapacityLimiter(int(self.aimd.limit))

    @asynccontextmanager
    async def acquire(self, timeout_s: float) -> AsyncIterator[None]:
        """Hold one slot, and adjust the limit by the outcome. Raise `LimiterTimeout` if none is free in time."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._tokens.acquire()
        except TimeoutError:
            in_flight = self._tokens.borrowed_tokens
            raise LimiterTimeout(f"{in_flight} calls were in flight to {self._url} until the timeout") from None
        decreases = self.aimd.decreases
        try:
            yield
            self.aimd.on_success()
        except Overloaded:
            self.aimd.on_overload(decreases)
            raise
        finally:
            self._tokens.total_tokens = int(self.aimd.limit)
            self._tokens.release()


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
    last_error: RewardError | None = None
    internal_errors_since_s: float | None = None
    """When the first of its latest responses arrived if all of them were 500."""
    limiter: ConcurrencyLimiter = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.limiter = ConcurrencyLimiter(self.url)

    @property
    def load(self) -> float:
        """Return the outstanding calls as a share of the concurrency limit."""
        return self.outstanding / self.limiter.aimd.limit

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

    def record_overload(self, retry_after_s: float | None, *, now_s: float) -> None:
        """Throttle the endpoint until its queue has room again. This is no failure."""
        self.throttled_until_s = now_s + min(MAX_RETRY_AFTER_S, retry_after_s or 0.0)
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

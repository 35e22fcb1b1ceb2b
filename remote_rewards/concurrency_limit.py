"""Limit the calls in flight to an endpoint: additive increase, multiplicative decrease, by what the responses say."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from anyio import CapacityLimiter

from shared.errors import Overloaded, ServiceUnreachable

MAX_CONCURRENCY = 16
"""Calls in flight per client and replica: enough to fill a service's batches. A service may tell another number."""
RECENT_RESPONSES = 64
"""Number of responses by which the instances behind a URL are counted."""


class LimiterTimeout(ServiceUnreachable):
    """The concurrency limit was exhausted until the attempt timed out. This is no failure of the service."""


@dataclass(slots=True, eq=False)
class AimdLimit:
    """A concurrency limit: additive increase, multiplicative decrease (Chiu and Jain, 1989), as in TCP."""

    limit: float = MAX_CONCURRENCY
    """Calls allowed in flight; the integer part counts."""
    decreases: int = 0
    """Number of decreases so far. A call notes it when it is sent, so that one overload decreases the limit once."""

    def on_success(self, maximum: float = MAX_CONCURRENCY) -> None:
        """Increase the limit by one per `limit` successes."""
        self.limit = min(maximum, self.limit + 1 / self.limit)

    def on_overload(self, decreases_when_sent: int) -> None:
        """Halve the limit, unless it was halved after the rejected call was sent."""
        if decreases_when_sent == self.decreases:
            self.limit = max(1.0, self.limit / 2)
            self.decreases += 1


@dataclass(slots=True)
class Admission:
    """A call that holds a slot of a limiter."""

    decreases: dict[AimdLimit, int]
    """The decreases of each limit when the call was sent."""
    instance: str | None = None
    """What has responded; None if the response does not say."""


class ConcurrencyLimiter:
    """Limits the calls in flight to one endpoint; waiting calls are admitted first in, first out.

    Each instance of the service behind the endpoint adds a limit of its own, so that the overload of one does not
    decrease those of the others.
    """

    def __init__(self, url: str, limit: AimdLimit | None = None) -> None:
        self._url, self._maximum = url, MAX_CONCURRENCY
        self._limits = [limit or AimdLimit()]
        """One for each instance, or a single one while none has told its name."""
        self._by_instance: dict[str, AimdLimit] = {}
        self._recent: deque[str] = deque(maxlen=RECENT_RESPONSES)
        self.limit = self._limits[0].limit
        """Calls allowed in flight to all instances together."""
        self._tokens = CapacityLimiter(int(self.limit))

    @property
    def instances(self) -> list[str]:
        """Return the instances that have responded recently."""
        return list(self._by_instance)

    def set_maximum(self, calls: int) -> None:
        """Set the upper bound of the calls in flight to one instance."""
        self._maximum = calls
        for aimd in self._limits:
            aimd.limit = calls if not aimd.decreases else min(calls, aimd.limit)
        self._update()

    def _update(self) -> None:
        self.limit = sum(aimd.limit for aimd in self._limits)
        self._tokens.total_tokens = int(self.limit)

    def _limits_of(self, instance: str | None) -> list[AimdLimit]:
        """Return the limit of the instance that has responded, which may be new; those of all if it is None."""
        if instance is None:
            return self._limits
        self._recent.append(instance)
        if instance not in self._by_instance:
            self._by_instance[instance] = AimdLimit(self._maximum) if self._by_instance else self._limits[0]
        if len(self._by_instance) > 1:
            recent = {*self._recent}
            self._by_instance = {name: aimd for name, aimd in self._by_instance.items() if name in recent}
            self._limits = list(self._by_instance.values())
        return [self._by_instance[instance]]

    @asynccontextmanager
    async def acquire(self, timeout_s: float) -> AsyncIterator[Admission]:
        """Hold one slot, and adjust the limit by the outcome. Raise `LimiterTimeout` if none is free in time."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._tokens.acquire()
        except TimeoutError:
            in_flight = self._tokens.borrowed_tokens
            raise LimiterTimeout(f"{in_flight} calls were in flight to {self._url} until the timeout") from None
        admission = Admission({aimd: aimd.decreases for aimd in self._limits})
        try:
            yield admission
            for aimd in self._limits_of(admission.instance):
                aimd.on_success(self._maximum)
        except Overloaded as error:
            for aimd in self._limits_of(error.instance):
                aimd.on_overload(admission.decreases.get(aimd, 0))
            raise
        finally:
            self._update()
            self._tokens.release()

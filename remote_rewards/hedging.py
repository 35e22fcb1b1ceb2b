"""Attempts beyond the first: the budget that limits them, and hedges, which are made while the first one is slow."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from statistics import quantiles
from typing import Any, Literal, TypeVar

T = TypeVar("T")
HedgeAfter = float | Literal["auto"] | None
"""Seconds after which an attempt is hedged; by the latencies observed; or never."""
MAX_TOKENS = 10.0
RETRY_TOKENS_PER_SUCCESS = 0.3
"""In the long run three of ten calls may be retried at once."""
HEDGE_TOKENS_PER_SUCCESS = 0.05
"""In the long run one of twenty calls may be hedged; a call at a replica known to fail is hedged in any case."""
MAX_HEDGES = 3
"""Hedges of one attempt: behind a load balancer a hedge, too, may reach a replica that is silent."""
MIN_HEDGE_DELAY_S = 1.0
FIRST_HEDGE_DELAY_S = 3.0
"""The delay before any latency is known."""
LATENCIES = 100
"""Number of recent attempts over which the delay is taken."""
MARGIN = 1.5
"""A hedge is made after so many times the latency that 19 of 20 recent attempts did not exceed."""


@dataclass(slots=True)
class RetryBudget:
    """A token bucket, as in gRPC's retry throttling (proposal A6): a retry takes a token, a success returns a part.

    Without tokens retries are delayed, not given up, so that callers do not keep a failing service down.
    """

    tokens_per_success: float = RETRY_TOKENS_PER_SUCCESS
    tokens: float = MAX_TOKENS

    def take(self) -> bool:
        """Take a token; return whether there was one."""
        if self.tokens < 1.0:
            return False
        self.tokens -= 1.0
        return True

    def on_success(self) -> None:
        """Return a part of a token."""
        self.tokens = min(MAX_TOKENS, self.tokens + self.tokens_per_success)


class Hedging:
    """Decides after which time an attempt is hedged, and how many are."""

    def __init__(self, hedge_after_s: HedgeAfter) -> None:
        self._hedge_after_s = hedge_after_s
        self._latencies_s: deque[float] = deque(maxlen=LATENCIES)
        self.budget = RetryBudget(HEDGE_TOKENS_PER_SUCCESS)

    def on_success(self, latency_s: float) -> None:
        """Record an attempt that succeeded."""
        self._latencies_s.append(latency_s)
        self.budget.on_success()

    @property
    def delay_s(self) -> float | None:
        """Return the delay after which an attempt is hedged; None if that is switched off."""
        if self._hedge_after_s != "auto":
            return self._hedge_after_s
        if len(self._latencies_s) < 2:
            return FIRST_HEDGE_DELAY_S
        return max(MIN_HEDGE_DELAY_S, MARGIN * quantiles(self._latencies_s, n=20, method="inclusive")[-1])


async def hedged(
    first: Coroutine[Any, Any, T], delay_s: float, hedge: Callable[[], Coroutine[Any, Any, T] | None]
) -> T:
    """Return the first result of `first` and of the attempts that `hedge` returns, up to `MAX_HEDGES`.

    `hedge` is called each time that no attempt has ended for `delay_s`, and may return None. If an attempt fails, the
    others count; if all fail, the error of `first` is raised. The slower ones are cancelled.
    """
    tasks = [asyncio.create_task(first)]
    try:
        while True:
            ended = [task for task in tasks if task.done()]
            if successful := [task for task in ended if task.exception() is None]:
                return successful[0].result()
            if not (pending := [task for task in tasks if task not in ended]):
                return tasks[0].result()
            timeout_s = delay_s if len(tasks) <= MAX_HEDGES else None
            done, _ = await asyncio.wait(pending, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if not done and (further := hedge()) is not None:
                tasks.append(asyncio.create_task(further))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

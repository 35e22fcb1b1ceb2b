"""Ask one of several replicas until there is an answer or no time is left. The one loop in which calls are repeated."""

import asyncio
import contextlib
import itertools
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx

from shared import backoff, budget, endpoints
from shared.budget import RetryBudget
from shared.endpoints import Endpoint
from shared.errors import Overloaded, RevisionChanged, RewardError, ServiceUnreachable, Unauthorized, UnknownReward
from shared.hedging import first_answer
from shared.keys import ApiKey
from shared.replicas import refreshed
from shared.transport import Call, Transport
from shared.turns import Lines, NoTurn

LOOK_UP_EVERY_S = 1.0
LOOK_AGAIN_S = 0.05
Parse = Callable[[httpx.Response], Any]


@dataclass(frozen=True, slots=True)
class Patience:
    """`timeout_s` bounds all attempts and waits together, `attempt_timeout_s` the first attempt.

    Each further one may take twice as long as the one before. Where `hedge_after_s` is given, an attempt that takes
    longer is made at another replica, too.
    """

    timeout_s: float = 300.0
    attempt_timeout_s: float = 30.0
    connect_timeout_s: float = 5.0
    hedge_after_s: float | None = None


class Asker:
    """What is known of the replicas, and the way to them."""

    def __init__(self, urls: list[str], key: ApiKey, patience: Patience) -> None:
        self._urls = urls
        self._key, self._patience = key, patience
        self._budget, self._lines = RetryBudget(), Lines()
        self.transport = Transport(key, patience.connect_timeout_s)
        self._know_nothing()
        self.retries = 0
        """Attempts that failed and were made again, since the beginning."""

    def _know_nothing(self) -> None:
        self._pid = os.getpid()
        self._endpoints: list[Endpoint] = []
        self._look_up_s = 0.0  # when the names are to be looked up again

    async def ask(self, call: Call, parse: Parse, *, timeout_s: float | None = None) -> Any:
        """Give what `parse` makes of the first right answer. Each time the replica with the least to do is asked.

        Raises a `RewardError`: at once where asking again would not help, soon where all answer 500 all the time, else
        when the time is over.
        """
        if self._pid != os.getpid():
            self._know_nothing()  # what a parent has under way never ends in a forked child
        began_s = time.monotonic()
        deadline_s = began_s + (self._patience.timeout_s if timeout_s is None else timeout_s)
        passed_over: dict[str, RewardError] = {}
        reason: RewardError | None = None
        for attempt in itertools.count():
            endpoint = await self._replica(passed_over, began_s, deadline_s, attempt)
            others = [each for each in self._endpoints if each is not endpoint and each.url not in passed_over]
            long_enough_s = backoff.doubled(self._patience.attempt_timeout_s, attempt)  # what did not fit may fit now
            until_s, sent = min(time.monotonic() + long_enough_s, deadline_s), self._key.header
            try:
                with contextlib.ExitStack() as chosen:
                    chosen.enter_context(endpoints.under_way(endpoint, now_s=time.monotonic()))
                    first = self._attempt(endpoint, call, parse, until_s)
                    second = partial(self._elsewhere, others, chosen, call, parse, until_s)
                    return await first_answer(first, self._patience.hedge_after_s, second)
            except (RevisionChanged, UnknownReward) as error:
                passed_over[endpoint.url] = error  # another replica may still serve it, or serve it already
                if not others:
                    raise
            except Unauthorized:
                if not self._key.renewed(sent):
                    raise
            except RewardError as error:
                if not error.retryable:
                    raise
                if reason is None or time.monotonic() < deadline_s:
                    reason = error  # where the deadline cut the attempt short, the one before says more
                wait_s = self._wait_s(others, attempt, error)
                ends_s = endpoints.ends_s([endpoint, *others], began_s=began_s, deadline_s=deadline_s)
                if time.monotonic() + wait_s >= ends_s:
                    raise _gave_up(reason, attempt + 1, ends_s - began_s, passed_over) from reason
                self.retries += 1
                await asyncio.sleep(wait_s)
        raise AssertionError("unreachable")

    async def _attempt(self, endpoint: Endpoint, call: Call, parse: Parse, until_s: float) -> Any:
        try:
            async with self._lines.to(endpoint.url).turn(endpoint.allowance, until_s - time.monotonic()):
                answer = parse(await self.transport.send(endpoint.url, call, until_s))
        except RewardError as error:
            if isinstance(error, Overloaded):
                endpoints.full(endpoint, error.retry_after_s, now_s=time.monotonic())
            elif error.retryable and not isinstance(error, NoTurn):
                endpoints.failed(endpoint, error, now_s=time.monotonic())
            raise
        endpoints.answered(endpoint)
        self._budget.answered()
        return answer

    def _elsewhere(
        self, others: list[Endpoint], chosen: contextlib.ExitStack, call: Call, parse: Parse, until_s: float
    ) -> Any:
        """Give the same attempt at another replica, where there is one and the budget allows it."""
        other = endpoints.choose(others, now_s=time.monotonic())
        if other is None or not self._budget.take():
            return None
        chosen.enter_context(endpoints.under_way(other, now_s=time.monotonic()))
        return self._attempt(other, call, parse, until_s)

    async def _replica(
        self, passed_over: dict[str, RewardError], began_s: float, deadline_s: float, attempts: int
    ) -> Endpoint:
        """Wait for a replica that may be asked: one that failed lately is tried by one caller for all."""
        while True:
            await self._look_up(deadline_s)
            candidates = [each for each in self._endpoints if each.url not in passed_over]
            if endpoint := endpoints.choose(candidates, now_s=time.monotonic()):
                return endpoint
            wait_s = endpoints.pause_s(candidates, now_s=time.monotonic()) if candidates else LOOK_AGAIN_S
            ends_s = endpoints.ends_s(candidates, began_s=began_s, deadline_s=deadline_s)
            if time.monotonic() + wait_s >= ends_s:
                nowhere = ServiceUnreachable(f"no address is known for {', '.join(self._urls)}; check the name")
                last = next((each.last_error for each in candidates if each.last_error), nowhere)
                raise _gave_up(last, attempts, ends_s - began_s, passed_over) from last
            await asyncio.sleep(wait_s)

    async def _look_up(self, deadline_s: float) -> None:
        """Look the addresses up at first, and again while a replica fails: it may have come back at another one."""
        wanted = not self._endpoints or any(each.failures for each in self._endpoints)
        if wanted and time.monotonic() >= self._look_up_s:
            self._look_up_s = time.monotonic() + LOOK_UP_EVERY_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(deadline_s - time.monotonic()):
                    self._endpoints = await refreshed(self._endpoints, self._urls) or self._endpoints

    def _wait_s(self, others: list[Endpoint], attempt: int, error: RewardError) -> float:
        """Give how long this caller waits: not at all where another replica can be asked, long with no budget left."""
        within_budget = self._budget.take()
        slow_s = 0.0 if within_budget else budget.SLOW_S * random.random()
        if endpoints.at_once(others, now_s=time.monotonic()):
            return slow_s
        retry_after_s = getattr(error, "retry_after_s", None)
        return max(slow_s, backoff.delay_s(attempt, fraction=random.random(), retry_after_s=retry_after_s))


def _gave_up(error: Exception, attempts: int, within_s: float, passed_over: dict[str, RewardError]) -> RewardError:
    """Say why no answer came: that a replica has another reward is worse than that another one is down."""
    if passed_over:
        return next(iter(passed_over.values()))
    return ServiceUnreachable(f"gave up after {attempts} attempts within {round(within_s, 1):g} s; the last: {error}")

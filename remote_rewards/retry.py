"""Ask one of several replicas until there is an answer or no time is left. The one loop in which calls are repeated."""

import asyncio
import contextlib
import math
import os
import random
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx

from remote_rewards import backoff, load_balancing, retry_budget
from remote_rewards.discovery import Replicas
from remote_rewards.hedging import first_answer
from remote_rewards.keys import ApiKey
from remote_rewards.limiter import Lines, NoTurn
from remote_rewards.load_balancing import Endpoint
from remote_rewards.retry_budget import RetryBudget
from remote_rewards.transport import Call, Transport, told_s
from shared.errors import Overloaded, RevisionChanged, RewardError, ServiceUnreachable, Unauthorized, UnknownReward

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


@dataclass(slots=True)
class Asked:
    """One call: what is asked, by when an answer is needed, and what came of it so far."""

    call: Call
    parse: Parse
    began_s: float
    deadline_s: float
    attempts: int = 0
    reason: RewardError | None = None
    """Why there is no answer yet."""
    passed_over: dict[str, RewardError] = field(default_factory=dict)
    """Why a replica is not asked again, by URL."""
    not_before_s: dict[str, float] = field(default_factory=dict)
    """When a replica said it may be asked again, by URL."""

    @property
    def latest_s(self) -> float:
        """When the last attempt may begin: no service could answer in what is left afterwards."""
        return self.began_s + told_s(self.deadline_s - self.began_s)


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
        self._pid, self.replicas = os.getpid(), Replicas(self._urls)

    async def ask(self, call: Call, parse: Parse, *, timeout_s: float | None = None) -> Any:
        """Give what `parse` makes of the first right answer. Each time the replica with the least to do is asked.

        Raises a `RewardError`: at once where asking again would not help, soon where all answer 500 all the time, else
        when the time is over.
        """
        if self._pid != os.getpid():
            self._know_nothing()  # what a parent has under way never ends in a forked child
        began_s = time.monotonic()
        asked = Asked(call, parse, began_s, began_s + (self._patience.timeout_s if timeout_s is None else timeout_s))
        while True:
            endpoint = await self._replica(asked)
            others = [each for each in self.replicas.besides(asked.passed_over) if each is not endpoint]
            sent = self._key.header
            try:
                return await self._answer(asked, endpoint, others)
            except (RevisionChanged, UnknownReward) as error:
                asked.passed_over[endpoint.url] = error  # another replica may still serve it, or serve it already
            except Unauthorized:
                if not self._key.renewed(sent):
                    raise
            except RewardError as error:
                if not error.retryable:
                    raise
                if asked.reason is None or time.monotonic() < asked.deadline_s:
                    asked.reason = error  # where the deadline cut the attempt short, the one before says more
                wait_s = self._wait_s(others, asked.attempts - 1, error)
                _refuse_late(asked, asked.reason, wait_s, [endpoint, *others])
                self.retries += 1
                await asyncio.sleep(wait_s)

    async def _answer(self, asked: Asked, endpoint: Endpoint, others: list[Endpoint]) -> Any:
        """Make one attempt, and where it is slow the same at another replica."""
        # what did not fit may fit now
        long_enough_s = backoff.doubled(self._patience.attempt_timeout_s, asked.attempts)
        until_s = min(time.monotonic() + long_enough_s, asked.deadline_s)
        asked.attempts += 1
        with contextlib.ExitStack() as chosen:
            chosen.enter_context(load_balancing.under_way(endpoint, now_s=time.monotonic()))
            first = self._attempt(asked, endpoint, until_s)
            second = partial(self._elsewhere, asked, others, chosen, until_s)
            return await first_answer(first, self._patience.hedge_after_s, second)

    async def _attempt(self, asked: Asked, endpoint: Endpoint, until_s: float) -> Any:
        try:
            async with self._lines.to(endpoint.url).turn(endpoint.allowance, until_s - time.monotonic()):
                answer = asked.parse(await self.transport.send(endpoint.url, asked.call, until_s))
        except RewardError as error:
            named_s = getattr(error, "retry_after_s", None) or 0.0
            asked.not_before_s[endpoint.url] = time.monotonic() + min(load_balancing.LONGEST_FULL_S, named_s)
            if isinstance(error, Overloaded):
                load_balancing.full(endpoint, error.retry_after_s, now_s=time.monotonic())
            elif error.retryable and not isinstance(error, NoTurn):
                load_balancing.failed(endpoint, error, now_s=time.monotonic())
            raise
        load_balancing.answered(endpoint)
        self._budget.answered()
        return answer

    def _elsewhere(
        self, asked: Asked, others: list[Endpoint], chosen: contextlib.ExitStack, until_s: float
    ) -> Coroutine[Any, Any, Any] | None:
        """Give the same attempt at another replica, where there is one and the budget allows it."""
        other = _chosen(asked, others)
        if other is None or not self._budget.take():
            return None
        chosen.enter_context(load_balancing.under_way(other, now_s=time.monotonic()))
        return self._attempt(asked, other, until_s)

    async def _replica(self, asked: Asked) -> Endpoint:
        """Wait for a replica that may be asked: one that failed lately is tried by one caller for all."""
        while True:
            candidates = await self.replicas.found(asked.passed_over, asked.deadline_s)
            endpoint = _chosen(asked, candidates)
            if endpoint and time.monotonic() < asked.latest_s:
                return endpoint
            wait_s = load_balancing.pause_s(candidates, now_s=time.monotonic()) if candidates else LOOK_AGAIN_S
            if asked.passed_over and not candidates:
                wait_s = math.inf  # there is nothing to wait for
            _refuse_late(asked, asked.reason or self._why_nobody(candidates), wait_s, candidates)
            await asyncio.sleep(wait_s)

    def _why_nobody(self, candidates: list[Endpoint]) -> Exception:
        if not candidates:
            return ServiceUnreachable(f"no address is known for {', '.join(self._urls)}; check the name")
        no_time = ServiceUnreachable("no time was left to ask")
        return next((each.last_error for each in candidates if each.last_error), no_time)

    async def aclose(self) -> None:
        """Close the connections of the running event loop, and end its look-up."""
        await self.replicas.aclose()
        await self.transport.aclose()

    def _wait_s(self, others: list[Endpoint], attempt: int, error: RewardError) -> float:
        """Give how long this caller waits: not at all where another replica can be asked, long with no budget left."""
        within_budget = self._budget.take()
        slow_s = 0.0 if within_budget else retry_budget.SLOW_S * random.random()
        if load_balancing.at_once(others, now_s=time.monotonic()):
            return slow_s
        retry_after_s = getattr(error, "retry_after_s", None)
        return max(slow_s, backoff.delay_s(attempt, fraction=random.random(), retry_after_s=retry_after_s))


def _chosen(asked: Asked, among: list[Endpoint]) -> Endpoint | None:
    """Choose a replica for a call: one that has told it when to come again not before that."""
    now_s = time.monotonic()
    return load_balancing.choose(
        [each for each in among if asked.not_before_s.get(each.url, 0.0) <= now_s], now_s=now_s
    )


def _refuse_late(asked: Asked, last: Exception, wait_s: float, candidates: list[Endpoint]) -> None:
    """Raise why no answer came where a wait would outlast the call."""
    ends_s = load_balancing.ends_s(candidates, began_s=asked.began_s, deadline_s=asked.deadline_s)
    if time.monotonic() + wait_s >= min(ends_s, asked.latest_s):
        raise _gave_up(asked, last, ends_s - asked.began_s) from last


def _gave_up(asked: Asked, last: Exception, within_s: float) -> RewardError:
    """Say why no answer came: that a replica has another reward is worse than that another one is down."""
    if asked.passed_over:
        return next(iter(asked.passed_over.values()))
    within = f"{max(0.0, round(within_s, 1)):g} s"
    return ServiceUnreachable(f"gave up after {asked.attempts} attempts within {within}; the last: {last}")

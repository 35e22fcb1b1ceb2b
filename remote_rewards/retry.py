"""Send a request to one of several replicas, and retry until one responds or the deadline passes.

Retries follow exponential backoff with full jitter within a retry budget (gRPC A6), and obey `Retry-After`; a slow
attempt may be hedged at another replica. Each retry is logged and observed as a `RetryScheduled`.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from random import SystemRandom
from typing import Any, Generic, TypeVar

import httpx

from remote_rewards import load_balancing, responses
from remote_rewards.backoff import backoff_s, exponential_s
from remote_rewards.concurrency_limit import LimiterTimeout
from remote_rewards.discovery import EndpointSet
from remote_rewards.hedging import HedgeAfter, Hedging, RetryBudget, hedged
from remote_rewards.load_balancing import Endpoint
from remote_rewards.retry_log import RetryLog, RetryScheduled
from remote_rewards.transport import Request, Transport, advertised_timeout_s
from shared.errors import NotARewardService, Overloaded, RevisionChanged, RewardError, ServiceUnreachable, UnknownReward

ENDPOINT_ERRORS = (RevisionChanged, UnknownReward, NotARewardService)
"""Errors of one endpoint: another one may have what the call asks for."""
JITTER = SystemRandom()
"""Not the global generator, which training scripts seed: all ranks would retry in the same moments."""
T = TypeVar("T")
RESOLVE_POLL_S = 0.05
WAIT_EVENT_S = 5.0
"""A call that waits for an available endpoint reports that only after this time without any other event."""
REVISION_TIMEOUT_S = 2.0
"""Time for which a call returns to an endpoint with another revision: its URL may stand for several replicas."""
EXHAUSTED_DELAY_S = 1.5
"""Upper bound of the delay of a retry without a token."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """`timeout_s` bounds a call, `attempt_timeout_s` its first attempt; each further attempt may take twice as long.

    An attempt that takes longer than `hedge_after_s` is also made at another endpoint.
    """

    timeout_s: float = 300.0
    attempt_timeout_s: float = 30.0
    connect_timeout_s: float = 5.0
    hedge_after_s: HedgeAfter = "auto"


@dataclass(slots=True)
class CallState(Generic[T]):
    """One call: its request, its deadline, and the outcome of its attempts so far."""

    request: Request
    parse: Callable[[httpx.Response], T]
    started_s: float
    deadline_s: float
    attempts: int = 0
    last_error: RewardError | None = None
    excluded: set[str] = field(default_factory=set)
    """URLs of endpoints that serve another revision, lack the reward or are another service."""
    refusals: int = 0
    """Attempts that were refused for that; they cost nothing, so that the next one may take no longer."""
    first_refusal: RewardError | None = None
    rejected_since_s: dict[str, float] = field(default_factory=dict)
    """By URL: when the endpoint first refused this call."""
    not_before_s: dict[str, float] = field(default_factory=dict)
    """By URL: when this call may return there, after a `Retry-After` or a refusal."""

    @property
    def last_attempt_s(self) -> float:
        """Return when the last attempt may start: afterwards no service could respond in time."""
        return self.started_s + advertised_timeout_s(self.deadline_s - self.started_s)

    def record_refusal(self, url: str, error: RewardError, *, now_s: float) -> None:
        """Exclude an endpoint: for moments while its URL may lead to another replica, then for the whole call."""
        self.refusals += 1
        self.first_refusal = self.first_refusal or error
        since_s = self.rejected_since_s.setdefault(url, now_s)
        if not isinstance(error, RevisionChanged) or now_s >= since_s + REVISION_TIMEOUT_S:
            self.excluded.add(url)
        exponent = self.refusals - 1
        self.not_before_s[url] = now_s + backoff_s(exponent, fraction=JITTER.random(), base_s=0.02, max_s=0.1)


class RetryingSender:
    """Sends requests to the endpoints behind some URLs, and holds what is known of them. Used from one event loop."""

    def __init__(self, urls: list[str], transport: Transport, timeouts: Timeouts, log: RetryLog) -> None:
        self.endpoints, self.transport = EndpointSet(urls), transport
        self._urls, self._timeouts, self._log = urls, timeouts, log
        self._budget, self._hedging = RetryBudget(), Hedging(timeouts.hedge_after_s)
        self._responded: set[str] = set()
        """The paths of requests that have been responded to."""
        self._last_event_s = -math.inf

    async def send(self, request: Request, parse: Callable[[httpx.Response], T], deadline_s: float) -> T:
        """Return what `parse` makes of the first valid response. `deadline_s` is of the monotonic clock.

        Raises a `RewardError`: at once if it is not retryable, after `GIVE_UP_ON_500_S` if all endpoints respond with
        nothing but 500, else when the deadline would pass before the next attempt.
        """
        state = CallState(request, parse, time.monotonic(), deadline_s)
        while True:
            endpoint = await self._pick_endpoint(state)
            others = [other for other in self.endpoints.excluding(state.excluded) if other is not endpoint]
            try:
                return await self._attempt_hedged(state, endpoint, others)
            except ENDPOINT_ERRORS as error:
                state.record_refusal(endpoint.url, error, now_s=time.monotonic())
            except RewardError as error:
                if not error.retryable:
                    raise
                if state.last_error is None or time.monotonic() < deadline_s:
                    state.last_error = error  # an attempt cut short by the deadline says less than the one before
                delay_s = self._delay_s(state, endpoint, others, error)
                _raise_if_late(state, state.last_error, delay_s, [endpoint, *others])
                self._log.retries += 1
                self._report(state, endpoint.url, error, delay_s)
                await asyncio.sleep(delay_s)

    async def _pick_endpoint(self, state: CallState[T]) -> Endpoint:
        """Wait for an available endpoint; an ejected one is probed by one call at a time."""
        while True:
            candidates = await self.endpoints.resolve(state.excluded, state.deadline_s, rejected=state.refusals > 0)
            endpoint = _pick(state, candidates)
            if endpoint and time.monotonic() < state.last_attempt_s:
                return endpoint
            if candidates:
                delay_s = load_balancing.next_available_in_s(candidates, now_s=time.monotonic())
            else:
                delay_s = math.inf if state.excluded else RESOLVE_POLL_S
            error = state.last_error or state.first_refusal or self._no_endpoint_error(candidates)
            _raise_if_late(state, error, delay_s, candidates)
            if time.monotonic() >= self._last_event_s + WAIT_EVENT_S:
                self._report(state, ", ".join(self._urls), error, delay_s)
            await asyncio.sleep(delay_s)

    async def _attempt_hedged(self, state: CallState[T], endpoint: Endpoint, others: list[Endpoint]) -> T:
        now_s = time.monotonic()
        # a longer attempt may succeed where a shorter one timed out
        timeout_s = exponential_s(self._timeouts.attempt_timeout_s, state.attempts - state.refusals)
        attempt_deadline_s = min(now_s + timeout_s, state.deadline_s)
        state.attempts += 1
        with contextlib.ExitStack() as in_flight:
            in_flight.enter_context(endpoint.in_flight(now_s=now_s))
            first, tried = self._attempt(state, endpoint, attempt_deadline_s), [endpoint]
            if not (others or endpoint.alternatives) or (delay_s := self._hedging.delay_s) is None:
                return await first

            def hedge() -> Coroutine[Any, Any, T] | None:
                if (further := self._pick_hedge(state, tried, others)) is None:
                    return None
                tried.append(further)
                in_flight.enter_context(further.in_flight(now_s=time.monotonic()))
                return self._attempt_instead(state, further, attempt_deadline_s, endpoint)

            return await hedged(first, delay_s, hedge)

    def _pick_hedge(self, state: CallState[T], tried: list[Endpoint], others: list[Endpoint]) -> Endpoint | None:
        """Return an endpoint not yet tried, else one that leads to further replicas, if the budgets allow it.

        The first hedge at an endpoint that fails needs no budget: only one call at a time probes it.
        """
        new = [endpoint for endpoint in others if endpoint not in tried]
        endpoint = _pick(state, new) or _pick(state, [further for one in tried for further in one.alternatives])
        free = len(tried) == 1 and tried[0].consecutive_failures
        return endpoint if endpoint and (free or (self._hedging.budget.take() and self._budget.take())) else None

    async def _attempt_instead(self, state: CallState[T], endpoint: Endpoint, deadline_s: float, slow: Endpoint) -> T:
        """Make an attempt; if it succeeds first, the slow endpoint has failed: it may be silent."""
        started_s = time.monotonic()
        result = await self._attempt(state, endpoint, deadline_s)
        if slow is not endpoint:
            now_s = time.monotonic()
            waited = f"{slow.url} did not respond before another replica, asked {now_s - started_s:.1f} s ago, did"
            slow.record_failure(ServiceUnreachable(waited), now_s=now_s)
        return result

    async def _attempt(self, state: CallState[T], endpoint: Endpoint, deadline_s: float) -> T:
        started_s = time.monotonic()
        try:
            async with endpoint.limiter.acquire(deadline_s - started_s) as admission:
                response = await self.transport.send(endpoint.url, state.request, deadline_s)
                result = state.parse(response)
                admission.instance = responses.instance_of(response)
        except RewardError as cause:
            error = self._as_outage(cause, state.request.path)
            self._record_error(state, endpoint, error, now_s=time.monotonic())
            if error is cause:
                raise
            raise error from cause
        self._responded.add(state.request.path)
        endpoint.record_success()
        self._budget.on_success()
        self._hedging.on_success(time.monotonic() - started_s)
        self._log.last_retry = None
        return result

    def _as_outage(self, error: RewardError, path: str) -> RewardError:
        """Return the error, or an outage if it is that of another service in place of one that has responded.

        A proxy that has just started, such as HAProxy on a new node of Ray, responds with 404 until it has routes.
        """
        is_outage = isinstance(error, NotARewardService) and path in self._responded
        return ServiceUnreachable(str(error)) if is_outage else error

    def _record_error(self, state: CallState[T], endpoint: Endpoint, error: RewardError, *, now_s: float) -> None:
        if isinstance(error, Overloaded):
            endpoint.record_overload(error.retry_after_s, error.instance, now_s=now_s)
        elif error.retryable and not isinstance(error, LimiterTimeout):
            endpoint.record_failure(error, now_s=now_s)
        retry_after_s = _retry_after_s(endpoint, error, now_s=now_s) or 0.0
        state.not_before_s[endpoint.url] = now_s + min(load_balancing.MAX_RETRY_AFTER_S, retry_after_s)

    def _delay_s(self, state: CallState[T], endpoint: Endpoint, others: list[Endpoint], error: RewardError) -> float:
        """Return the delay before the next attempt: none if another endpoint is available and a token is left."""
        now_s, exhausted_s = time.monotonic(), 0.0 if self._budget.take() else EXHAUSTED_DELAY_S * JITTER.random()
        if load_balancing.any_available(others, now_s=now_s):
            return exhausted_s
        retry_after_s = _retry_after_s(endpoint, error, now_s=now_s)
        failures = state.attempts - state.refusals - 1
        return max(exhausted_s, backoff_s(failures, fraction=JITTER.random(), retry_after_s=retry_after_s))

    def _no_endpoint_error(self, candidates: list[Endpoint]) -> RewardError:
        if not candidates:
            return ServiceUnreachable(f"no address is known for {', '.join(self._urls)}; check the name")
        no_time = ServiceUnreachable("no time was left for an attempt")
        return next((candidate.last_error for candidate in candidates if candidate.last_error), no_time)

    def _report(self, state: CallState[T], endpoint: str, error: RewardError, delay_s: float) -> None:
        self._last_event_s = now_s = time.monotonic()
        self._log.record(RetryScheduled(endpoint, error, state.attempts, delay_s, state.deadline_s - now_s))

    async def aclose(self) -> None:
        """Close all connections, and end name resolution."""
        await self.endpoints.aclose()
        await self.transport.aclose()


def _pick(state: CallState[T], endpoints: list[Endpoint]) -> Endpoint | None:
    """Pick an endpoint that has not asked this call to come back later."""
    now_s = time.monotonic()
    ready = [endpoint for endpoint in endpoints if state.not_before_s.get(endpoint.url, 0.0) <= now_s]
    return load_balancing.pick(ready, now_s=now_s)


def _retry_after_s(endpoint: Endpoint, error: RewardError, *, now_s: float) -> float | None:
    """Return the `Retry-After` of an error, unless another instance behind the same URL may have room."""
    if isinstance(error, Overloaded) and endpoint.throttled_until_s <= now_s:
        return None
    return getattr(error, "retry_after_s", None)


def _raise_if_late(state: CallState[T], error: RewardError, delay_s: float, candidates: list[Endpoint]) -> None:
    """Raise the final error if the next attempt would start too late."""
    give_up_s = load_balancing.give_up_s(candidates, started_s=state.started_s, deadline_s=state.deadline_s)
    if time.monotonic() + delay_s >= min(give_up_s, state.last_attempt_s):
        raise _deadline_error(state, error, give_up_s - state.started_s) from error


def _deadline_error(state: CallState[T], error: RewardError, timeout_s: float) -> RewardError:
    """Return the final error. A revision mismatch takes precedence over an unreachable replica."""
    if state.first_refusal is not None:
        return state.first_refusal
    within = f"{max(0.0, round(timeout_s, 1)):g} s"
    hint = "; start it with `reward-service serve`, or check the URL" if _is_unconnected(error) else ""
    return ServiceUnreachable(f"gave up after {state.attempts} attempts within {within}; last error: {error}{hint}")


def _is_unconnected(error: RewardError) -> bool:
    return isinstance(error.__cause__, httpx.ConnectError | httpx.ConnectTimeout)

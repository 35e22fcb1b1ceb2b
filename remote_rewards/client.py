"""The client of a reward service: scores in the order of the request, or a `RewardError`; never an invented number.

A call that several replicas can share, or that is larger than the service's limits, is sent in chunks, all of which are
scored by one revision. Failed attempts are retried within the deadline of the call, see `retry`.
"""

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx

from remote_rewards import responses
from remote_rewards.chunks import Chunk, Columns, Reading, ScoreCall
from remote_rewards.discovery import validate_urls
from remote_rewards.hedging import HedgeAfter
from remote_rewards.retry import RetryingSender, Timeouts
from remote_rewards.retry_log import RetryLog, RetryScheduled
from remote_rewards.transport import ApiKey, Request, Transport, reject_plaintext_key
from shared import schemas
from shared.aio import EventLoopThread, gather_or_cancel
from shared.errors import BadRequest, InvalidUrl, RevisionChanged
from shared.schemas import Limits, ScoreResponse, ServiceInfo

T = TypeVar("T")
MAX_CONSISTENCY_ATTEMPTS = 3
"""Attempts to get all chunks of a call scored by one revision; a reload in between is short."""


class RewardClient:
    """A client of one reward service, or of several replicas of it.

    `api_key` is the key, or the path of its file, which is read again when a service rejects the key. A key is sent
    over plain HTTP to another machine only with `allow_http`, or `REWARD_ALLOW_HTTP` in the environment.

    `timeout_s` bounds a call with all its retries; `attempt_timeout_s` bounds the first attempt, and each further one
    may take twice as long. An attempt that takes longer than `hedge_after_s` is also made at another replica, if there
    is one: by default after a time taken from the latencies so far, at least a second; with None, never.

    A call is cut into one chunk for each replica, where chunks are worth a request and its rewards allow cuts.

    `transport` replaces the network, for example by `httpx.MockTransport` or `httpx.ASGITransport`. `on_retry` is
    called with each `RetryScheduled`, which the logger `remote_rewards` also logs as a warning. A refused or reset
    connection is reported at once; a service that accepts a request and never responds, after the attempt's timeout.

    The client may be used from any thread and any event loop, in a forked process, and after pickling, which leaves
    out `on_retry`. Each event loop has connections of its own; calls without one share a loop in a thread.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        api_key: str | Path | None = None,
        *,
        timeout_s: float = 300.0,
        attempt_timeout_s: float = 30.0,
        connect_timeout_s: float = 5.0,
        hedge_after_s: HedgeAfter = "auto",
        allow_http: bool = False,
        transport: httpx.AsyncBaseTransport | None = None,
        on_retry: Callable[[RetryScheduled], None] | None = None,
    ) -> None:
        self.urls = [url.rstrip("/") for url in ([urls] if isinstance(urls, str) else urls)]
        if not self.urls:
            raise InvalidUrl("a RewardClient needs at least one URL, such as http://127.0.0.1:8088")
        validate_urls(self.urls)
        if api_key:
            reject_plaintext_key(self.urls, allow_http=allow_http)
        self._key, self._transport = ApiKey(api_key), transport
        self._timeouts = Timeouts(timeout_s, attempt_timeout_s, connect_timeout_s, hedge_after_s)
        self._init_state(on_retry)

    def _init_state(self, on_retry: Callable[[RetryScheduled], None] | None) -> None:
        self._retry_log = RetryLog(on_retry)
        self._info: ServiceInfo | None = None
        self._limits: Limits | None = None  # those of `_info`, or lower ones of another replica
        self._senders: dict[asyncio.AbstractEventLoop, RetryingSender] = {}
        self._threads: dict[int, EventLoopThread] = {}
        """By process ID: a forked process does not inherit its parent's thread."""

    def __getstate__(self) -> dict[str, Any]:
        state = {"_retry_log", "_info", "_limits", "_senders", "_threads"}
        return {name: value for name, value in self.__dict__.items() if name not in state}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._init_state(on_retry=None)

    def __repr__(self) -> str:
        return f"RewardClient({', '.join(self.urls)})"

    @property
    def timeout_s(self) -> float:
        """Return the bound on a whole call."""
        return self._timeouts.timeout_s

    @property
    def retries(self) -> int:
        """Return the number of failed attempts that were retried so far."""
        return self._retry_log.retries

    @property
    def last_retry(self) -> RetryScheduled | None:
        """Return why calls are waiting: the latest retry event; None once an attempt has succeeded."""
        return self._retry_log.last_retry

    async def ainfo(self, *, timeout_s: float | None = None) -> ServiceInfo:
        """Return the service's rewards, their revisions, and its limits.

        Raises `NotARewardService` if another service responds at the URL.
        """
        deadline_s = time.monotonic() + (self.timeout_s if timeout_s is None else timeout_s)
        info = await self._sender.send(Request("GET", schemas.REWARDS_PATH), responses.parse_service_info, deadline_s)
        self._info, self._limits = info, info.limits
        self._sender.endpoints.set_max_calls(info.limits.calls)
        return info

    async def ascore(
        self,
        completions: Sequence[Any],
        prompts: Sequence[Any] | None = None,
        columns: Columns | None = None,
        rewards: Sequence[str] | None = None,
        *,
        details: bool = False,
        revisions: Mapping[str, str] | None = None,
        trainer_state: Mapping[str, Any] | None = None,
    ) -> ScoreResponse:
        """Score completions. `scores[i]` of each reward belongs to `completions[i]`.

        Columns that none of the rewards reads are not sent, and may hold anything.
        `revisions` pins rewards to a revision; replicas with another one refuse the call without scoring it, and are
        passed over. Raises `RevisionChanged` if there is no replica left, and another `RewardError` if there are no
        scores before the deadline.
        """
        deadline_s = time.monotonic() + self.timeout_s
        call = ScoreCall(completions, prompts, columns, rewards, details, trainer_state)
        pins = {name: pin for name, pin in (revisions or {}).items() if rewards is None or name in rewards}
        info = self._info or await self.ainfo()
        reading = Reading.of(info, rewards)
        response = await self._score(call, reading, deadline_s, pins)
        served = info.revisions()
        if any(scores.revision != served.get(name) for name, scores in response.rewards.items()):
            info = await self.ainfo(timeout_s=max(0.0, deadline_s - time.monotonic()))
            if Reading.of(info, rewards) != reading:  # the rewards that have scored read something else
                response = await self._score(call, Reading.of(info, rewards), deadline_s, pins)
        return response

    async def _score(
        self, call: ScoreCall, reading: Reading, deadline_s: float, revisions: Mapping[str, str]
    ) -> ScoreResponse:
        send = partial(self._send, call.rewards, deadline_s)
        initial = limits = self._limits or (await self.ainfo()).limits
        endpoints = self._sender.endpoints
        while True:
            try:
                chunks = call.chunks(reading, limits, endpoints.replicas_for_a_call(limits.spread))
            except BadRequest:
                self._info = None  # the service may be reconfigured before the next call
                raise
            try:
                with endpoints.in_progress(len(chunks)):
                    if len(chunks) == 1:
                        response = await send(revisions, chunks[0])
                    else:
                        response = await _score_consistently(chunks, send, revisions)
            except BadRequest as error:  # another replica may have lower limits than the one that returned them
                if error.code != "too_large" or len(chunks) >= len(call.completions):
                    raise
                limits = limits.halved(max_texts=max(count for _, count in chunks))
                continue
            if limits is not initial:  # only after a success: one completion that is too large says nothing of others
                self._limits = limits.min(self._limits or limits)
            return response

    def _send(
        self, rewards: Sequence[str] | None, deadline_s: float, revisions: Mapping[str, str], chunk: Chunk
    ) -> Coroutine[Any, Any, ScoreResponse]:
        body, count = chunk
        parse = responses.score_parser(count, rewards, revisions)
        return self._sender.send(Request("POST", schemas.SCORE_PATH, body, revisions), parse, deadline_s)

    def info(self, *, timeout_s: float | None = None) -> ServiceInfo:
        """Return what `ainfo` does, for callers without an event loop."""
        return self.run(self.ainfo(timeout_s=timeout_s))

    def score(
        self,
        completions: Sequence[Any],
        prompts: Sequence[Any] | None = None,
        columns: Columns | None = None,
        rewards: Sequence[str] | None = None,
        *,
        details: bool = False,
        revisions: Mapping[str, str] | None = None,
        trainer_state: Mapping[str, Any] | None = None,
    ) -> ScoreResponse:
        """Score like `ascore`, for callers without an event loop."""
        call = partial(self.ascore, completions, prompts, columns, rewards)
        return self.run(call(details=details, revisions=revisions, trainer_state=trainer_state))

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        """Run a call of this client's coroutines, for callers without an event loop, and return its result."""
        return self._thread.run(call)

    @property
    def _thread(self) -> EventLoopThread:
        return self._threads.setdefault(os.getpid(), EventLoopThread())  # atomic: several threads may call first

    @property
    def _sender(self) -> RetryingSender:
        """Return the sender of the running event loop."""
        loop = asyncio.get_running_loop()
        if loop not in self._senders:
            for closed in [other for other in list(self._senders) if other.is_closed()]:
                self._senders.pop(closed, None)  # connections keep their loop alive, so it is never collected
            transport = Transport(self._key, self._timeouts.connect_timeout_s, self._transport)
            self._senders[loop] = sender = RetryingSender(self.urls, transport, self._timeouts, self._retry_log)
            sender.endpoints.set_max_calls(self._limits.calls if self._limits else None)
        return self._senders[loop]

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        if sender := self._senders.pop(asyncio.get_running_loop(), None):
            await sender.aclose()

    def close(self) -> None:
        """Close the connections of calls without an event loop, and end their thread.

        Calls in flight raise a `RewardError`. The client may be used again afterwards.
        """
        if thread := self._threads.pop(os.getpid(), None):
            thread.stop(self.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


async def _score_consistently(
    chunks: Sequence[Chunk],
    send: Callable[[Mapping[str, str], Chunk], Coroutine[Any, Any, ScoreResponse]],
    revisions: Mapping[str, str],
) -> ScoreResponse:
    """Score all chunks with the same revisions; if they differ, again with those of the last chunk."""
    pinned: dict[str, str] = {}
    for attempts_left in reversed(range(MAX_CONSISTENCY_ATTEMPTS)):
        try:
            parts = await gather_or_cancel(map(partial(send, {**pinned, **revisions}), chunks))
        except RevisionChanged:
            if not pinned or not attempts_left:
                raise
            pinned = {}  # the pinned revisions are no longer served
            continue
        try:
            return responses.merge(parts)
        except responses.MixedRevisions:
            if not attempts_left:
                raise
            pinned = {name: reward.revision for name, reward in parts[-1].rewards.items()}
    raise AssertionError("unreachable")

"""Ask a reward service for scores, and never get an invented one.

In: completions, prompts and columns of one length. Out: the wire's response as an object, in the order asked, or a
`RewardError`. A score is pure, so a failed call is asked again, inside one total deadline; a call larger than the
service's limits is split and put together again. What is never done: turning a failure into a number.
"""

import os
import time
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from remote_rewards import responses
from remote_rewards.chunks import split
from remote_rewards.discovery import refuse_bad
from remote_rewards.keys import ApiKey
from remote_rewards.retry import Asker, Patience
from remote_rewards.transport import Call, readable_by_others
from shared import schemas
from shared.aio import EventLoopThread, gather_or_cancel
from shared.errors import BadRequest, InsecureTransport, InvalidUrl, RevisionChanged
from shared.schemas import Limits, ScoreResponse, ServiceInfo

T = TypeVar("T")
Columns = Mapping[str, Sequence[Any]]
YES = {"1", "true", "yes", "on"}
TRIES = 3
"""So often is a whole call made whose chunks were scored by several revisions or rewards: a reload lasts a moment."""


class RewardClient:
    """A client of one reward service, or of several replicas of it.

    `api_key` is the key, or the path of a file that holds it, which is read again when the service refuses the key.
    `timeout_s` bounds a whole call, all attempts and waits together; `attempt_timeout_s` bounds the first of
    them, and each further one twice as long as the one before. With `hedge_after_s`, an attempt that takes longer is
    made at another replica, too. A key goes over plain HTTP to another machine only if `allow_http`, or the
    environment's `REWARD_ALLOW_HTTP`, says so. May be used from any thread and event loop, copied by pickle, and
    inherited by a forked process.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        api_key: str | Path | None = None,
        *,
        timeout_s: float = 300.0,
        attempt_timeout_s: float = 30.0,
        connect_timeout_s: float = 5.0,
        hedge_after_s: float | None = None,
        allow_http: bool = False,
    ) -> None:
        self.urls = [url.rstrip("/") for url in ([urls] if isinstance(urls, str) else urls)]
        if not self.urls:
            raise InvalidUrl("a RewardClient needs at least one URL, such as http://127.0.0.1:8088")
        refuse_bad(self.urls)
        if api_key and not (allow_http or os.environ.get("REWARD_ALLOW_HTTP", "").lower() in YES):
            _refuse_open(self.urls)
        self._key = ApiKey(api_key)
        self._patience = Patience(timeout_s, attempt_timeout_s, connect_timeout_s, hedge_after_s)
        self._reset()

    def _reset(self) -> None:
        self._asker = Asker(self.urls, self._key, self._patience)
        self._limits: Limits | None = None
        self._threads: dict[int, EventLoopThread] = {}
        """By the process they run in: a forked child begins its own."""

    def __getstate__(self) -> dict[str, Any]:
        live = {"_asker", "_limits", "_threads"}
        return {name: value for name, value in self.__dict__.items() if name not in live}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def __repr__(self) -> str:
        return f"RewardClient({', '.join(self.urls)})"

    @property
    def timeout_s(self) -> float:
        """The bound on a whole call."""
        return self._patience.timeout_s

    @property
    def retries(self) -> int:
        """Attempts that failed and were made again, since the beginning."""
        return self._asker.retries

    async def ainfo(self, *, timeout_s: float | None = None) -> ServiceInfo:
        """Give what the service says of itself: its rewards, their revisions, its limits.

        Raises `NotARewardService` if something else answers at the address.
        """
        call = Call("GET", schemas.REWARDS_PATH)
        info: ServiceInfo = await self._asker.ask(call, responses.service_info, timeout_s=timeout_s)
        self._limits = info.limits
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
    ) -> ScoreResponse:
        """Score texts. `scores[i]` of each reward belongs to `completions[i]`.

        `revisions` names the only revision of a reward whose scores are taken; a replica with another one is passed
        over. Raises `RevisionChanged` where there is no other, and another `RewardError` when the scores cannot be had
        before the deadline; see `shared.errors`.
        """
        deadline_s = time.monotonic() + self.timeout_s
        known = limits = self._limits or (await self.ainfo()).limits
        request: dict[str, Any] = {"completions": list(completions)}
        if prompts is not None:
            request["prompts"] = list(prompts)
        if columns:
            request["columns"] = {name: list(values) for name, values in columns.items()}
        if rewards is not None:
            request["rewards"] = list(rewards)
        if details:
            request["details"] = True
        while True:
            bodies = split(request, texts=limits.max_request_texts, body_bytes=limits.max_body_bytes)
            try:
                response = await self._whole(bodies, rewards, revisions, deadline_s)
            except BadRequest as error:
                if error.code != "too_large" or len(bodies) >= len(completions):
                    raise
                limits = halved(limits, texts=max(count for _, count in bodies))
                continue
            if limits is not known:  # not where all was in vain: one text that is too large says nothing of the others
                self._limits = smaller(limits, self._limits or limits)
            return response

    async def _whole(
        self,
        bodies: Sequence[tuple[bytes, int]],
        rewards: Sequence[str] | None,
        revisions: Mapping[str, str] | None,
        deadline_s: float,
    ) -> ScoreResponse:
        """Have all chunks scored by the same rewards: where they were not, by those that scored the last of them."""
        kept: dict[str, str] = {}
        for last in (*[False] * (TRIES - 1), True):
            try:
                parts = await self._parts(bodies, rewards, {**kept, **(revisions or {})}, deadline_s)
            except RevisionChanged:
                if not kept or last:
                    raise
                kept = {}  # what scored them is served no more
                continue
            try:
                return responses.merge(parts)
            except responses.SeveralRevisions:
                if last:
                    raise
                kept = {name: reward.revision for name, reward in parts[-1][0].rewards.items()}
        raise AssertionError("unreachable")

    async def _parts(
        self,
        bodies: Sequence[tuple[bytes, int]],
        rewards: Sequence[str] | None,
        revisions: Mapping[str, str] | None,
        deadline_s: float,
    ) -> list[tuple[ScoreResponse, int]]:
        async def part(body: bytes, count: int) -> tuple[ScoreResponse, int]:
            parse = responses.score_response(count, rewards, revisions)
            call, left_s = Call("POST", schemas.SCORE_PATH, body), deadline_s - time.monotonic()
            return await self._asker.ask(call, parse, timeout_s=left_s), count

        return await gather_or_cancel(part(body, count) for body, count in bodies)

    def info(self, *, timeout_s: float | None = None) -> ServiceInfo:
        """Like `ainfo`, for callers without an event loop."""
        return self._run(self.ainfo(timeout_s=timeout_s))

    def score(
        self,
        completions: Sequence[Any],
        prompts: Sequence[Any] | None = None,
        columns: Columns | None = None,
        rewards: Sequence[str] | None = None,
        *,
        details: bool = False,
        revisions: Mapping[str, str] | None = None,
    ) -> ScoreResponse:
        """Like `ascore`, for callers without an event loop."""
        return self._run(self.ascore(completions, prompts, columns, rewards, details=details, revisions=revisions))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._threads.setdefault(os.getpid(), EventLoopThread()).run(work)  # atomic: threads may call at once

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        await self._asker.aclose()

    def close(self) -> None:
        """Close the connections of the sync face and end its thread. Calls under way in others get a `RewardError`."""
        if thread := self._threads.pop(os.getpid(), None):
            thread.stop(self.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def halved(limits: Limits, *, texts: int) -> Limits:
    """Give limits under which so many texts travel in two: the replica that told its own may take more than others."""
    return limits.model_copy(
        update={"max_request_texts": max(1, texts // 2), "max_body_bytes": max(1, limits.max_body_bytes // 2)}
    )


def smaller(one: Limits, other: Limits) -> Limits:
    """Give limits that keep to both: calls that are under way together may each have learned some."""
    return one.model_copy(
        update={
            "max_request_texts": min(one.max_request_texts, other.max_request_texts),
            "max_body_bytes": min(one.max_body_bytes, other.max_body_bytes),
        }
    )


def _refuse_open(urls: Sequence[str]) -> None:
    for url in filter(readable_by_others, urls):
        raise InsecureTransport(
            f"the API key could be read on its way to {url}: use https, or say allow_http=True "
            f"(REWARD_ALLOW_HTTP=1) where the network between is your own"
        )

"""Ask a reward service for scores, and never get an invented one.

In: completions, prompts and columns of one length. Out: the wire's response as an object, in the order asked, or a
`RewardError`. A score is pure, so a failed call is asked again, inside one total deadline; a call larger than the
service's limits is split and put together again. What is never done: turning a failure into a number.
"""

import asyncio
import itertools
import random
import time
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Self, TypeVar
from weakref import WeakKeyDictionary

import httpx

from shared import answers, backoff, endpoints, protocol
from shared.chunks import split
from shared.endpoints import Endpoint
from shared.errors import Overloaded, RewardError, ServiceUnreachable
from shared.loop_thread import LoopThread
from shared.schemas import Limits, ScoreResponse, ServiceInfo
from shared.together import together

T = TypeVar("T")
Columns = Mapping[str, Sequence[Any]]


class RewardClient:
    """A client of one reward service, or of several replicas of it.

    `timeout_s` bounds a whole call, all attempts and waits together; `attempt_timeout_s` bounds the first of
    them, and each further one twice as long as the one before. May be
    used from any thread and event loop, copied by pickle, and inherited by a forked process.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        api_key: str | None = None,
        *,
        timeout_s: float = 300.0,
        attempt_timeout_s: float = 30.0,
        connect_timeout_s: float = 5.0,
    ) -> None:
        self.urls = [url.rstrip("/") for url in ([urls] if isinstance(urls, str) else urls)]
        if not self.urls:
            raise ValueError("a RewardClient needs at least one URL, such as http://127.0.0.1:8088")
        self._api_key = api_key
        self.timeout_s, self.attempt_timeout_s = timeout_s, attempt_timeout_s
        self.connect_timeout_s = connect_timeout_s
        self._reset()

    def _reset(self) -> None:
        self._endpoints = [Endpoint(url) for url in self.urls]
        self._http: WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient] = WeakKeyDictionary()
        self._limits: Limits | None = None
        self._thread: LoopThread | None = None
        self.retries = 0
        """Attempts that failed and were made again, since the beginning."""

    def __getstate__(self) -> dict[str, Any]:
        live = {"_endpoints", "_http", "_limits", "_thread", "retries"}
        return {name: value for name, value in self.__dict__.items() if name not in live}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def __repr__(self) -> str:
        return f"RewardClient({', '.join(self.urls)})"

    async def ainfo(self, *, timeout_s: float | None = None) -> ServiceInfo:
        """Give what the service says of itself: its rewards, their revisions, its limits.

        Raises `NotARewardService` if something else answers at the address.
        """
        info: ServiceInfo = await self._ask(
            "GET", protocol.REWARDS_PATH, parse=answers.service_info, timeout_s=timeout_s
        )
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
    ) -> ScoreResponse:
        """Score texts. `scores[i]` of each reward belongs to `completions[i]`.

        Raises a `RewardError` when the scores cannot be had before the deadline; see `shared.errors`.
        """
        limits = self._limits or (await self.ainfo()).limits
        request: dict[str, Any] = {"completions": list(completions)}
        if prompts is not None:
            request["prompts"] = list(prompts)
        if columns:
            request["columns"] = {name: list(values) for name, values in columns.items()}
        if rewards is not None:
            request["rewards"] = list(rewards)
        if details:
            request["details"] = True
        bodies = split(request, texts=limits.texts_per_request, body_bytes=limits.body_bytes)
        return answers.merge(await together(self._score(body, count, rewards) for body, count in bodies))

    async def _score(self, body: bytes, count: int, rewards: Sequence[str] | None) -> tuple[ScoreResponse, int]:
        return await self._ask("POST", protocol.SCORE_PATH, body, parse=answers.score_response(count, rewards)), count

    async def _ask(
        self, method: str, path: str, body: bytes | None = None, *, parse: Any, timeout_s: float | None = None
    ) -> Any:
        """Ask until there is an answer or the deadline has come; each time the replica with the least to do."""
        allowed_s = self.timeout_s if timeout_s is None else timeout_s
        deadline_s = time.monotonic() + allowed_s
        for attempt in itertools.count():
            endpoint = await self._replica(deadline_s, allowed_s, attempt)
            patience_s = self.attempt_timeout_s * 2.0**attempt  # what did not fit the last attempt may fit this one
            attempt_s = min(patience_s, deadline_s - time.monotonic())
            try:
                answer = parse(await self._attempt(endpoint, method, path, body, attempt_s))
            except RewardError as error:
                if not error.retryable:
                    raise
                wait_s = self._wait_s(endpoint, attempt, error)
                if time.monotonic() + wait_s >= deadline_s:
                    raise _gave_up(error, attempt + 1, allowed_s) from error
                self.retries += 1
                await asyncio.sleep(wait_s)
            else:
                endpoints.answered(endpoint)
                return answer
        raise AssertionError("unreachable")

    async def _replica(self, deadline_s: float, allowed_s: float, attempts: int) -> Endpoint:
        """Wait for a replica that may be asked: one that failed lately is tried by one caller for all."""
        while (endpoint := endpoints.choose(self._endpoints, now_s=time.monotonic())) is None:
            wait_s = endpoints.pause_s(self._endpoints, now_s=time.monotonic())
            if time.monotonic() + wait_s >= deadline_s:
                last = next(each.last_error for each in self._endpoints if each.last_error)
                raise _gave_up(last, attempts, allowed_s) from last
            await asyncio.sleep(wait_s)
        return endpoint

    def _wait_s(self, endpoint: Endpoint, attempt: int, error: RewardError) -> float:
        """Note a failure, and give how long this caller waits: not at all where another replica can be asked."""
        if not isinstance(error, Overloaded):  # a full queue is no fault
            endpoints.failed(endpoint, error, now_s=time.monotonic())
        if any(other.admits(time.monotonic()) for other in self._endpoints if other is not endpoint):
            return 0.0
        retry_after_s = getattr(error, "retry_after_s", None)
        return backoff.delay_s(attempt, fraction=random.random(), retry_after_s=retry_after_s)

    async def _attempt(
        self, endpoint: Endpoint, method: str, path: str, body: bytes | None, allowed_s: float
    ) -> httpx.Response:
        remaining_s = max(0.001, allowed_s)
        headers = {protocol.TIMEOUT_HEADER: str(int(remaining_s * 1000)), "Accept-Encoding": "identity"}
        if body is not None:
            headers["Content-Type"] = protocol.JSON
        if self._api_key:
            headers["Authorization"] = f"Bearer {self._api_key}"
        timeout = httpx.Timeout(remaining_s, connect=min(self.connect_timeout_s, remaining_s))
        endpoint.outstanding += 1
        try:
            async with asyncio.timeout(remaining_s):
                url, client = endpoint.url + path, self._client()
                async with client.stream(method, url, content=body, headers=headers, timeout=timeout) as stream:
                    response = await answers.read(stream)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as cause:
            raise ServiceUnreachable(
                f"no reward service answers at {endpoint.url} ({type(cause).__name__}: {cause}); "
                f"start one with `reward-service serve`, or check the URL"
            ) from cause
        finally:
            endpoint.outstanding -= 1
        answers.raise_for_problem(response)
        return response

    def _client(self) -> httpx.AsyncClient:
        loop = asyncio.get_running_loop()
        if loop not in self._http:
            limits = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=5.0)
            self._http[loop] = httpx.AsyncClient(limits=limits, follow_redirects=False)
        return self._http[loop]

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
    ) -> ScoreResponse:
        """Like `ascore`, for callers without an event loop."""
        return self._run(self.ascore(completions, prompts, columns, rewards, details=details))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        if self._thread is None or not self._thread.usable():
            self._thread = LoopThread()
        return self._thread.run(work)

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        client = self._http.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()

    def close(self) -> None:
        """Close the connections of the sync face and end its thread."""
        if self._thread is not None and self._thread.usable():
            self._thread.run(self.aclose())
            self._thread.stop()
        self._thread = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _gave_up(error: Exception, attempts: int, timeout_s: float) -> ServiceUnreachable:
    return ServiceUnreachable(f"gave up after {attempts} attempts within {timeout_s:g} s; the last: {error}")

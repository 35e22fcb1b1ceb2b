"""Score with a user's reward function, written for TRL's `reward_funcs`, unchanged."""

import asyncio
import contextlib
import copy
import functools
import inspect
import itertools
from collections.abc import Callable, Mapping, Set
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from reward_service.config import FunctionSpec
from reward_service.rewards.base import Items, Reward, Scores, all_failed, finite_range
from reward_service.rewards.function_source import bound_arguments, load_object, revision
from shared.aio import EventLoopThread
from shared.schemas import ItemError, RewardInfo, Text

T = TypeVar("T")
MAX_CONCURRENT_CALLS = 8
"""Threads of one function. A function that hangs blocks no other reward."""


class FunctionReward(Reward):
    """A function `(completions, prompts, **columns) -> list[float | None]`, sync or async."""

    accepts_canary = False  # it may need columns that the canary does not have

    def __init__(self, name: str, spec: FunctionSpec) -> None:
        self._function = load_object(spec.object)
        self._bound = bound_arguments(self._function)
        self._loop = EventLoopThread(name) if is_async(self._function) else None  # it may block: not the service's loop
        self._threads = ThreadPoolExecutor(MAX_CONCURRENT_CALLS, thread_name_prefix=name)
        self._free = asyncio.Semaphore(MAX_CONCURRENT_CALLS)  # waiting here can be cancelled; in a pool's queue, not
        self._abandoned: set[Future[Any]] = set()
        self.info = RewardInfo(
            name=name,
            kind=spec.kind,
            description=spec.description or (inspect.getdoc(self._function) or "").partition("\n")[0],
            revision=f"function:{revision(spec.object, self._function)}",
            range=finite_range(spec.range),
        )

    async def score(self, items: Items) -> Scores:
        """Call the function with the whole request. A None that it returns means "not applicable".

        It gets copies of the columns, which other rewards read too. A column never replaces an argument that the
        configuration has bound.
        """
        prompts = None if items.prompt_chats is None else [_plain(text) for text in items.prompt_chats]
        own = {name: copy.deepcopy(column) for name, column in items.columns.items() if name not in self._bound}
        columns = {**own, "completions": [_plain(text) for text in items.chats], "prompts": prompts}
        scores = await self._call(functools.partial(self._function, **columns), len(items))
        if isinstance(scores, str):  # not retryable: the same call would fail again
            message = f"the reward function {self.info.name} failed: {scores}"
            return all_failed(len(items), "function_failed", message)
        missing = ItemError(code="not_applicable", message=f"{self.info.name} does not apply to this item")
        errors = {index: missing for index, score in enumerate(scores) if score is None}
        return Scores(scores=scores, details=[None] * len(scores), errors=errors)

    async def _call(self, call: Callable[[], Any], count: int) -> list[float | None] | str:
        """Return the scores, or the failure as text: an exception in the function is no fault of the service."""
        if self._loop is None:
            return await self._in_thread(functools.partial(call_safely, call, count))
        return await asyncio.wrap_future(self._loop.submit(_call_async(call, count)))

    async def _in_thread(self, call: Callable[[], T]) -> T:
        """Call on a free thread. If the caller is cancelled, the call goes on abandoned: a thread cannot be stopped."""
        await self._free.acquire()
        loop, future = asyncio.get_running_loop(), self._threads.submit(call)

        def ended(_: Future[Any]) -> None:
            with contextlib.suppress(RuntimeError):  # the service's loop is closed
                loop.call_soon_threadsafe(self._release, future)

        future.add_done_callback(ended)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if not future.done():
                self._abandoned.add(future)
            raise

    def _release(self, call: Future[Any]) -> None:
        self._abandoned.discard(call)
        self._free.release()

    @property
    def healthy(self) -> bool:
        """Return whether a thread is left that no abandoned call holds."""
        return len(self._abandoned) < MAX_CONCURRENT_CALLS

    async def stop(self) -> None:
        """Shut down without waiting for calls: one that never ends would block the shutdown."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._loop is not None:
            self._loop.stop_nowait(asyncio.sleep(0))


def is_async(function: Callable[..., Any]) -> bool:
    """Return whether calling the function, or the callable object, gives a coroutine."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


async def _call_async(call: Callable[[], Any], count: int) -> list[float | None] | str:
    try:
        values = await call()
    except BaseException as error:
        if isinstance(error, GeneratorExit) or _is_cancelled(error):
            raise
        return _describe(error)
    return call_safely(lambda: values, count)


def call_safely(call: Callable[[], Any], count: int) -> list[float | None] | str:
    """Return `count` scores, or the failure as text.

    A failure is a return value because a future cannot carry every exception (`StopIteration`, `SystemExit`).
    """
    try:
        values = call()
        if isinstance(values, str | bytes | Mapping | Set):
            raise TypeError(f"it returned a {type(values).__name__}, not a list of scores")
        scores = [None if value is None else _number(value) for value in itertools.islice(values, count + 1)]
        if len(scores) != count:
            returned = len(scores) if len(scores) < count else f"more than {count}"
            return f"it returned {returned} scores for {count} texts"
        return scores
    except BaseException as error:
        return _describe(error)


def _number(value: Any) -> float:
    if isinstance(value, str | bytes):
        raise TypeError(f"it returned a {type(value).__name__} as a score")
    return float(value)


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _is_cancelled(error: BaseException) -> bool:
    """Return whether this task was cancelled. A function can also raise `CancelledError` by itself."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


def _plain(text: Text) -> Any:
    if isinstance(text, str):
        return text
    return [message.model_dump(exclude_unset=True) for message in text]

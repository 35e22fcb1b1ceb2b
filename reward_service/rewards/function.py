"""Serve anybody's reward function, written for TRL's `reward_funcs`, unchanged."""

import asyncio
import contextlib
import copy
import functools
import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from reward_service.config import FunctionSpec
from reward_service.rewards.base import Items, Scores, finite_range
from reward_service.rewards.function_source import bound_arguments, load_object, revision
from shared.aio import EventLoopThread
from shared.schemas import ItemError, RewardInfo, Text

T = TypeVar("T")
THREADS = 8
"""Calls of one function at a time; those of a function that hangs hold up nobody else."""


class FunctionReward:
    """A function `(completions, prompts, **columns) -> list[float | None]`, sync or async."""

    def __init__(self, name: str, spec: FunctionSpec) -> None:
        self._function = load_object(spec.object)
        self._set = bound_arguments(self._function)
        self._loop = EventLoopThread(name) if is_async(self._function) else None  # not the service's: it may block
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix=name)
        self._free = asyncio.Semaphore(THREADS)  # who waits here can leave, which nobody can who is in a pool's queue
        self._abandoned: set[Future[Any]] = set()
        self.info = RewardInfo(
            name=name,
            kind=spec.kind,
            description=spec.description or (inspect.getdoc(self._function) or "").partition("\n")[0],
            revision=f"function:{revision(spec.object, self._function)}",
            range=finite_range(spec.range),
        )

    async def score(self, items: Items) -> Scores:
        """Call the function with the whole request; its None means: does not apply to this item.

        The columns are its own: others may read the same. What the configuration sets, no column replaces.
        """
        prompts = None if items.prompt_chats is None else [_plain(text) for text in items.prompt_chats]
        own = {name: copy.deepcopy(column) for name, column in items.columns.items() if name not in self._set}
        columns = {**own, "completions": [_plain(text) for text in items.chats], "prompts": prompts}
        scores = await self._called(functools.partial(self._function, **columns), len(items))
        if isinstance(scores, str):  # somebody's code: asking it the same again would fail the same way
            return self._failed(len(items), scores)
        if len(scores) != len(items):
            return self._failed(len(items), f"it gave {_count(scores, len(items))} scores for {len(items)} texts")
        missing = ItemError(code="not_applicable", message=f"{self.info.name} does not apply to this item")
        errors = {index: missing for index, score in enumerate(scores) if score is None}
        return Scores(scores=scores, details=[None] * len(scores), errors=errors)

    async def _called(self, call: Callable[[], Any], count: int) -> list[float | None] | str:
        """Give the scores, or why there are none: whatever it raises is its failure, not the service's."""
        if self._loop is None:
            return await self._in_thread(functools.partial(call_safely, call, count))
        return await asyncio.wrap_future(self._loop.submit(_awaited(call, count)))

    async def _in_thread(self, call: Callable[[], T]) -> T:
        """Call on a thread, once one is free. A caller who leaves leaves the call, which nobody can stop."""
        await self._free.acquire()
        loop, running = asyncio.get_running_loop(), self._threads.submit(call)

        def ended(_: Future[Any]) -> None:
            with contextlib.suppress(RuntimeError):  # the service has ended meanwhile
                loop.call_soon_threadsafe(self._ended, running)

        running.add_done_callback(ended)
        try:
            return await asyncio.wrap_future(running)
        except asyncio.CancelledError:
            if not running.done():
                self._abandoned.add(running)
            raise

    def _ended(self, call: Future[Any]) -> None:
        self._abandoned.discard(call)
        self._free.release()

    @property
    def healthy(self) -> bool:
        """Tell whether there is a thread that no call holds whose caller has gone."""
        return len(self._abandoned) < THREADS

    def _failed(self, count: int, why: str) -> Scores:
        error = ItemError(code="function_failed", message=f"the reward function {self.info.name} failed: {why}")
        return Scores(scores=[None] * count, details=[None] * count, errors=dict.fromkeys(range(count), error))

    async def start(self) -> None:
        """A function needs nothing."""

    async def stop(self) -> None:
        """Wait for no call: one that never ends would keep the service."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._loop is not None:
            self._loop.stop_nowait(asyncio.sleep(0))


def is_async(function: Callable[..., Any]) -> bool:
    """Tell whether a function is to be awaited: a coroutine function, or an object that is called as one."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


async def _awaited(call: Callable[[], Any], count: int) -> list[float | None] | str:
    try:
        values = await call()
    except BaseException as error:
        if isinstance(error, GeneratorExit) or _is_cancelled(error):
            raise
        return _why(error)
    return call_safely(lambda: values, count)


def call_safely(call: Callable[[], Any], count: int) -> list[float | None] | str:
    """Give what a function says of so many texts, and one more where it says more; or why it says nothing.

    A failure is a result here: not everything that can be raised comes through a future.
    """
    try:
        values = call()
        if isinstance(values, str | bytes | Mapping | Set):
            raise TypeError(f"it gave a {type(values).__name__}, not a list of scores")
        return [None if value is None else _number(value) for value in itertools.islice(values, count + 1)]
    except BaseException as error:
        return _why(error)


def _number(value: Any) -> float:
    if isinstance(value, str | bytes):
        raise TypeError(f"it gave a {type(value).__name__} for a score")
    return float(value)


def _why(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _is_cancelled(error: BaseException) -> bool:
    """Tell whether somebody gave this call up: a function may also raise that by itself."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


def _count(scores: Sequence[Any], count: int) -> str:
    """Say how many scores there are: of too many, one is looked at."""
    return f"more than {count}" if len(scores) > count else str(len(scores))


def _plain(text: Text) -> Any:
    if isinstance(text, str):
        return text
    return [message.model_dump(exclude_unset=True) for message in text]

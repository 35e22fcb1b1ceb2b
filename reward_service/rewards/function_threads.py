"""Call a reward function on threads of the service, or on an event loop of its own: `in_process: true`."""

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from reward_service.rewards.function_call import CallResult, RewardFunction
from shared.aio import EventLoopThread

MAX_CONCURRENT_CALLS = 8
"""Threads of one function. A function that hangs blocks no other reward."""


class FunctionThreads:
    """Calls a function in the service's process, where nothing can end a call that does not return."""

    def __init__(self, name: str, function: RewardFunction) -> None:
        self._function = function
        self._loop = EventLoopThread(name) if function.signature.is_async else None  # it may block
        self._threads = ThreadPoolExecutor(MAX_CONCURRENT_CALLS, thread_name_prefix=name)
        self._free = asyncio.Semaphore(MAX_CONCURRENT_CALLS)  # waiting here can be cancelled; in a pool's queue, not
        self._abandoned: set[Future[Any]] = set()

    async def run(self, payload: bytes, limit_s: float) -> CallResult:
        """Call the function with a pickled `Call`. The limit cannot be enforced."""
        if self._loop is None:
            return await self._in_thread(partial(self._function.call, payload))
        return await asyncio.wrap_future(self._loop.submit(self._function.acall(payload)))

    async def _in_thread(self, call: Callable[[], CallResult]) -> CallResult:
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

    async def close(self) -> None:
        """Shut down without waiting for calls: one that never ends would block the shutdown."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._loop is not None:
            self._loop.stop_nowait(asyncio.sleep(0))

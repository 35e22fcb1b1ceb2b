"""Structured concurrency helpers: gather coroutines as one unit, or run them on an event loop in its own thread."""

import asyncio
import threading
from collections.abc import Coroutine, Iterable
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from shared.errors import RewardError

T = TypeVar("T")
CANCEL_GRACE_S = 1.0
"""How long to wait for cancelled tasks to end; some ignore their cancellation."""


async def gather_or_cancel(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Return all results in order. The first error cancels the other tasks, waits `CANCEL_GRACE_S` and is raised.

    Unlike `asyncio.gather`, a cancelled call does not wait indefinitely for tasks that ignore their cancellation.
    """
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    if not tasks:
        return []
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for failed in [task for task in tasks if task.done() and not task.cancelled() and task.exception()]:
            failed.result()
        return [task.result() for task in tasks]
    finally:
        await _cancel_and_wait([task for task in tasks if not task.done()])


async def _cancel_and_wait(tasks: list[asyncio.Task[T]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        done, _ = await asyncio.wait(tasks, timeout=CANCEL_GRACE_S)
        for task in done:
            task.cancelled() or task.exception()  # mark as retrieved: only the first error is raised


class EventLoopThread:
    """An event loop in a daemon thread, which runs coroutines for synchronous code.

    The thread starts with the first coroutine. A forked process does not inherit it.
    """

    def __init__(self, name: str = "reward-client") -> None:
        self._name = name
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._stopped = False

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine and return its result. An exception in the waiting thread cancels the coroutine.

        Raises `RewardError` if the loop is stopped first.
        """
        future = self.submit(coroutine)
        try:
            return future.result()
        except CancelledError:
            raise self._stopped_error() from None
        except BaseException:
            future.cancel()
            raise

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Schedule a coroutine and return its future. Raises `RewardError` if the loop has been stopped."""
        try:
            with self._lock:
                if self._stopped:
                    raise self._stopped_error()
                return asyncio.run_coroutine_threadsafe(coroutine, self._ensure_started())
        except BaseException:
            coroutine.close()
            raise

    def _ensure_started(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=_run_loop, args=[loop], name=self._name, daemon=True)
            self._thread.start()  # may fail; the next call tries again
            self._loop = loop
        return self._loop

    def stop(self, cleanup: Coroutine[Any, Any, None]) -> None:
        """Cancel all tasks, run `cleanup`, and wait for the loop and its thread to end."""
        try:
            self.stop_nowait(cleanup).result()
        finally:
            self._thread.join()

    def stop_nowait(self, cleanup: Coroutine[Any, Any, None]) -> Future[None]:
        """Begin the same shutdown without waiting for it, since a coroutine may block the loop forever."""
        with self._lock:
            self._stopped = True
            loop = self._ensure_started()
        shutdown = asyncio.run_coroutine_threadsafe(_shutdown(cleanup), loop)
        shutdown.add_done_callback(lambda _: loop.call_soon_threadsafe(loop.stop))
        return shutdown

    def _stopped_error(self) -> RewardError:
        return RewardError(f"{self._name} was closed while a call was in flight")


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


async def _shutdown(cleanup: Coroutine[Any, Any, None]) -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await cleanup

"""Structured concurrency helpers: run coroutines together, or on an event loop in a thread of its own."""

import asyncio
import threading
from collections.abc import Coroutine, Iterable
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from shared.errors import RewardError

T = TypeVar("T")
CANCEL_GRACE_S = 1.0
"""So long is waited for work that was told to end: some of it may not listen."""


async def gather_or_cancel(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Give all results in order. The first error ends the others, and is raised when they have ended, or hear nothing.

    Not `asyncio.gather`: where that is cancelled, it waits for its tasks however long they take to end.
    """
    tasks = [asyncio.create_task(each) for each in work]
    if not tasks:
        return []
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for failed in [each for each in tasks if each.done() and not each.cancelled() and each.exception()]:
            failed.result()
        return [task.result() for task in tasks]
    finally:
        await _ended([task for task in tasks if not task.done()])


async def _ended(tasks: list[asyncio.Task[T]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        done, _ = await asyncio.wait(tasks, timeout=CANCEL_GRACE_S)
        for task in done:
            task.cancelled() or task.exception()  # seen: the first error is the one that counts


class EventLoopThread:
    """An event loop on a thread of its own, for the sync face: coroutines go in, results come out.

    The thread begins with the first coroutine. A fork does not inherit it.
    """

    def __init__(self, name: str = "reward-client") -> None:
        self._name = name
        self._loop: asyncio.AbstractEventLoop | None = None
        self._taking = threading.Lock()
        self._stopped = False

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end. A call given up by the caller is cancelled.

        Raises `RewardError` where the loop is stopped first.
        """
        future = self.submit(work)
        try:
            return future.result()
        except CancelledError:
            raise _closed() from None
        except BaseException:
            future.cancel()
            raise

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Begin a coroutine, and give what becomes of it. Raises `RewardError` where the loop is stopped."""
        try:
            with self._taking:
                if self._stopped:
                    raise _closed()
                return asyncio.run_coroutine_threadsafe(work, self._begun())
        except BaseException:
            work.close()
            raise

    def _begun(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=_run, args=[loop], name=self._name, daemon=True)
            self._thread.start()  # may fail, and the next call tries again
            self._loop = loop
        return self._loop

    def stop(self, last: Coroutine[Any, Any, None]) -> None:
        """Cancel what runs, run `last`, and end the loop and its thread."""
        try:
            self.leave(last).result()
        finally:
            self._thread.join()

    def leave(self, last: Coroutine[Any, Any, None]) -> Future[None]:
        """Do the same, and wait for none of it: something may block the loop for ever."""
        with self._taking:
            self._stopped = True
            loop = self._begun()
        ended = asyncio.run_coroutine_threadsafe(_alone(last), loop)
        ended.add_done_callback(lambda _: loop.call_soon_threadsafe(loop.stop))
        return ended


def _run(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


async def _alone(last: Coroutine[Any, Any, None]) -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await last


def _closed() -> RewardError:
    return RewardError("the client was closed while a call was under way")

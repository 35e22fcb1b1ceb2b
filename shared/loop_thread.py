"""An event loop on a thread, by which code without one uses code that needs one."""

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from shared.errors import RewardError

T = TypeVar("T")


class LoopThread:
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

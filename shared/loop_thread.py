"""An event loop on a thread, by which code without one uses code that needs one."""

import asyncio
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from shared.errors import RewardError

T = TypeVar("T")


class LoopThread:
    """An event loop on a thread of its own, for the sync face: coroutines go in, results come out."""

    def __init__(self) -> None:
        self._loop, self._pid = asyncio.new_event_loop(), os.getpid()
        self._thread = threading.Thread(target=self._loop.run_forever, name="reward-client", daemon=True)
        self._taking = threading.Lock()
        self._stopped = False
        self._thread.start()

    def usable(self) -> bool:
        """Tell whether the thread runs in this process: a fork does not inherit it."""
        return self._pid == os.getpid() and self._thread.is_alive()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end. A call given up by the caller is cancelled.

        Raises `RewardError` where the loop is stopped first.
        """
        future = self._taken(work)
        try:
            return future.result()
        except CancelledError:
            raise _closed() from None
        except BaseException:
            future.cancel()
            raise

    def _taken(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        with self._taking:
            if not self._stopped:
                return asyncio.run_coroutine_threadsafe(work, self._loop)
        work.close()
        raise _closed()

    def stop(self, last: Coroutine[Any, Any, None]) -> None:
        """Cancel what runs, run `last`, and end the loop and its thread."""
        with self._taking:
            self._stopped = True
        try:
            asyncio.run_coroutine_threadsafe(_alone(last), self._loop).result()
        finally:
            self._end()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _alone(last: Coroutine[Any, Any, None]) -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await last


def _closed() -> RewardError:
    return RewardError("the client was closed while a call was under way")

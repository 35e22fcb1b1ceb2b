"""Wait for several pieces of work: all of them, or none."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")
ENDING_S = 1.0
"""So long is waited for work that was told to end: some of it may not listen."""


async def together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
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
        done, _ = await asyncio.wait(tasks, timeout=ENDING_S)
        for task in done:
            task.cancelled() or task.exception()  # seen: the first error is the one that counts

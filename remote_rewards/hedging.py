"""Ask a second time while the first still thinks: two answers to one question, of which the first counts."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def first_answer(
    first: Coroutine[Any, Any, T], after_s: float | None, second: Callable[[], Coroutine[Any, Any, T] | None]
) -> T:
    """Give the first result there is. `second` is begun once `first` has taken `after_s`; it may decline with None.

    Without `after_s` there is no second.

    Where one fails, the other one counts; where both do, the error is the first one's. What is not needed is cancelled.
    """
    if after_s is None:
        return await first
    tasks = [asyncio.create_task(first)]
    try:
        await asyncio.wait(tasks, timeout=after_s)
        if not tasks[0].done() and (other := second()) is not None:
            tasks.append(asyncio.create_task(other))
        return await _any_of(tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _any_of(tasks: list[asyncio.Task[T]]) -> T:
    for done in asyncio.as_completed(list(tasks)):
        with contextlib.suppress(Exception):  # the other one may have an answer
            return await done
    return tasks[0].result()

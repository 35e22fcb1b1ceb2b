"""Let all processes of a distributed run stop together: where one has no reward, none may wait for its gradients.

Each process tells the others how a call went, and which revisions it has its scores from, before any of them goes on:
rewards of two models do not compare, least of all within one group. A process that is gone is noticed by its closed
connection. Over gloo, whatever the gradients travel by, from one thread, so that all talk in the same order.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import lru_cache
from typing import Any, TypeVar

from shared.errors import RankFailed, RevisionChanged

T = TypeVar("T")
Revisions = Mapping[str, str]
"""By the name of each reward."""
_talking = ThreadPoolExecutor(1, thread_name_prefix="ranks")


async def agreed(work: Awaitable[T], timeout_s: float, revisions_of: Callable[[T], Revisions] = lambda _: {}) -> T:
    """Give the result of this process's work once all have theirs.

    Raises what went wrong here, or `RankFailed` where there are several processes: the same on each of them. So is
    `RevisionChanged`, where a reward in `revisions_of` the results is not of the same revision on all. What `timeout_s`
    bounds is the wait for the others.
    """
    if not several():
        return await work
    result: T | None = None
    revisions: Revisions = {}
    failure: Exception | None = None
    try:
        result = await work
        revisions = revisions_of(result)
    except Exception as error:
        failure = error
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(_talking, _tell, failure, revisions, timeout_s)
    return result  # type: ignore[return-value]


def agreed_now(work: Callable[[], T], timeout_s: float, revisions_of: Callable[[T], Revisions] = lambda _: {}) -> T:
    """Do the same for work without an event loop."""

    async def done() -> T:
        return await asyncio.to_thread(work)

    return asyncio.run(agreed(done(), timeout_s, revisions_of))


def several() -> bool:
    """Tell whether this process is one of several."""
    distributed = sys.modules.get("torch.distributed")  # who has not imported it is alone, and need not wait for torch
    return distributed is not None and distributed.is_initialized() and distributed.get_world_size() > 1


def _tell(failure: Exception | None, revisions: Revisions, timeout_s: float) -> None:
    from torch import distributed

    told: list[Any] = [None] * distributed.get_world_size()
    mine = None if failure is None else f"{type(failure).__name__}: {failure}"
    try:
        distributed.all_gather_object(told, (mine, dict(revisions)), group=_group(timeout_s))
    except RuntimeError as error:
        raise RankFailed(f"another process of this run is gone or does not answer ({error})") from failure or error
    for rank, (message, _) in enumerate(told):
        if message is not None:
            raise RankFailed(f"process {rank} has no rewards, so all stop: {message}") from failure
    refuse_several([revisions for _, revisions in told])


def refuse_several(told: Sequence[Revisions]) -> None:
    """Raise `RevisionChanged` where a reward is not of the same revision on every process, given in their order."""
    first: dict[str, tuple[int, str]] = {}
    for rank, revisions in enumerate(told):
        for name, revision in revisions.items():
            other, before = first.setdefault(name, (rank, revision))
            if revision != before:
                raise RevisionChanged(
                    f"the reward {name!r} is not the same on all processes: process {other} has {before} and process "
                    f"{rank} has {revision}; rewards of two models do not compare, so serve one of them everywhere"
                )


@lru_cache(maxsize=1)
def _group(timeout_s: float) -> Any:
    from torch import distributed

    return distributed.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))

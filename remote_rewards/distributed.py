"""Agreement between the ranks of a distributed run: either all of them have their rewards, or all raise.

Before any rank uses the result of a call, the ranks exchange whether it succeeded and which revisions it has: scores of
two models do not compare, least of all within one group. A rank that has died is noticed by its closed connection. The
exchange uses gloo, whatever backend the gradients use, from one thread, so that all ranks make it in the same order.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import cache, lru_cache
from typing import Any, TypeVar

from shared.errors import RankFailed, RevisionChanged

T = TypeVar("T")
Revisions = Mapping[str, str]
"""The revision of each reward, by name."""
RANK_TIMEOUT_MARGIN_S = 30.0
"""How much longer than its own work may take a rank waits for the others."""


def is_distributed() -> bool:
    """Return whether this process is one of several ranks."""
    distributed = sys.modules.get("torch.distributed")  # not imported means not initialized: do not import torch here
    return distributed is not None and distributed.is_initialized() and distributed.get_world_size() > 1


@asynccontextmanager
async def all_ranks_succeed(timeout_s: float) -> AsyncIterator[dict[str, str]]:
    """Hold each rank at the end of the block until every rank has reached it.

    The block adds the revisions of its rewards to the dictionary that it receives. Raises, on every rank, `RankFailed`
    if the block of any rank raised an exception, and `RevisionChanged` if two ranks have different revisions of a
    reward. In a run of one process, only the block's own exception is raised. `timeout_s` is the longest time that the
    block may take on any rank.
    """
    revisions: dict[str, str] = {}
    if not is_distributed():
        yield revisions
        return
    failure: Exception | None = None
    try:
        yield revisions
    except Exception as error:
        failure = error
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(_gloo_executor(), _gather_status, failure, revisions, timeout_s)


def all_ranks_succeed_sync(
    work: Callable[[], T], timeout_s: float, revisions_of: Callable[[T], Revisions] = lambda _: {}
) -> T:
    """Return the result of `work` once it has succeeded on every rank, as `all_ranks_succeed` does for a block."""

    async def run() -> T:
        async with all_ranks_succeed(timeout_s) as revisions:
            result = await asyncio.to_thread(work)
            revisions.update(revisions_of(result))
        return result

    return asyncio.run(run())


def check_same_revisions(revisions_by_rank: Sequence[Revisions]) -> None:
    """Raise `RevisionChanged` where two ranks have different revisions of a reward."""
    first: dict[str, tuple[int, str]] = {}
    for rank, revisions in enumerate(revisions_by_rank):
        for name, revision in revisions.items():
            first_rank, first_revision = first.setdefault(name, (rank, revision))
            if revision != first_revision:
                raise RevisionChanged(
                    f"the ranks have different revisions of the reward {name!r}: rank {first_rank} has "
                    f"{first_revision} and rank {rank} has {revision}; scores of two models do not compare, so serve "
                    f"the same revision to all ranks"
                )


def _gather_status(failure: Exception | None, revisions: Revisions, timeout_s: float) -> None:
    """Exchange (error message, revisions) with the other ranks, and raise what follows for all of them."""
    from torch import distributed

    statuses: list[Any] = [None] * distributed.get_world_size()
    message = None if failure is None else f"{type(failure).__name__}: {failure}"
    try:
        distributed.all_gather_object(statuses, (message, dict(revisions)), group=_gloo_group(timeout_s))
    except RuntimeError as error:
        raise RankFailed(f"another rank of this run has died or does not respond ({error})") from failure or error
    for rank, (rank_message, _) in enumerate(statuses):
        if rank_message is not None:
            raise RankFailed(f"rank {rank} has no rewards, so all ranks stop: {rank_message}") from failure
    check_same_revisions([rank_revisions for _, rank_revisions in statuses])


@cache
def _gloo_executor() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="reward-ranks")


@lru_cache(maxsize=1)
def _gloo_group(timeout_s: float) -> Any:
    from torch import distributed

    return distributed.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s + RANK_TIMEOUT_MARGIN_S))

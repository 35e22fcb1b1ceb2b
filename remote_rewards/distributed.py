"""Agreement between the ranks of a distributed run: either all of them have their rewards, or all raise.

Before any rank uses the result of a call, the ranks exchange whether it succeeded and which revisions it has: scores of
two models do not compare, least of all within one group. A rank that has died is noticed by its closed connection. The
exchange uses gloo, whatever backend the gradients use, in the same order on all ranks.
"""

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar, cast

from shared.errors import RankFailed, RevisionChanged

T = TypeVar("T")
Revisions = Mapping[str, str]
"""The revision of each reward, by name."""
RANK_TIMEOUT_MARGIN_S = 30.0
"""How much longer than its own work may take a rank waits for the others."""
WORK_TIMEOUT_S = 7200.0
"""How much longer than the others' the work of one rank may take by default: the evaluation of a batch on a CPU."""


def is_distributed() -> bool:
    """Return whether this process is one of several ranks."""
    distributed = sys.modules.get("torch.distributed")  # not imported means not initialized: do not import torch here
    return distributed is not None and distributed.is_initialized() and distributed.get_world_size() > 1


def rank() -> int:
    """Return the rank of this process, 0 in a run of one process."""
    return int(sys.modules["torch.distributed"].get_rank()) if is_distributed() else 0


def world_size() -> int:
    """Return the number of ranks, 1 in a run of one process."""
    return int(sys.modules["torch.distributed"].get_world_size()) if is_distributed() else 1


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


def on_all_ranks(work: Callable[[], T], timeout_s: float = WORK_TIMEOUT_S) -> list[T]:
    """Run `work` on every rank, in the calling thread, and return the results of all ranks, in their order.

    Results must be picklable. Raises the exception of this rank's own `work`, or `RankFailed` if another rank has
    failed. `timeout_s` is the longest time that `work` may take on any rank.
    """
    if not is_distributed():
        return [work()]
    try:
        result = work()
    except Exception as error:
        with suppress(RankFailed):  # why this rank failed comes first
            _exchange((_describe(error), None), timeout_s)
        raise
    outcomes = _exchange((None, result), timeout_s)
    for failed, (message, _) in enumerate(outcomes):
        if message is not None:
            raise RankFailed(f"rank {failed} has failed, so all ranks stop: {message}")
    return [result for _, result in outcomes]


def on_main_rank(work: Callable[[], T], timeout_s: float = WORK_TIMEOUT_S) -> T:
    """Run `work` on rank 0 alone, and return its result on every rank, as `on_all_ranks` does."""
    results = on_all_ranks(lambda: work() if rank() == 0 else None, timeout_s)
    return cast(T, results[0])


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
    message = None if failure is None else _describe(failure)
    try:
        statuses = _exchange((message, dict(revisions)), timeout_s)
    except RankFailed as error:
        raise error from failure or error.__cause__
    for failed, (rank_message, _) in enumerate(statuses):
        if rank_message is not None:
            raise RankFailed(f"rank {failed} has no rewards, so all ranks stop: {rank_message}") from failure
    check_same_revisions([rank_revisions for _, rank_revisions in statuses])


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _exchange(status: Any, timeout_s: float) -> list[Any]:
    """Return the status of every rank. Raises `RankFailed` if a rank has died or does not respond."""
    from torch import distributed

    statuses: list[Any] = [None] * distributed.get_world_size()
    try:
        distributed.all_gather_object(statuses, status, group=_gloo_group(timeout_s))
    except RuntimeError as error:
        raise lost_rank(error) from error
    return statuses


def lost_rank(error: Exception) -> RankFailed:
    """Return the error that stands for one of torch's when a rank has died, with the cause alone of gloo's message."""
    reason = re.sub(r"\[\S+:\d+\] |\. This is typically.*", "", str(error), flags=re.DOTALL)
    return RankFailed(f"another rank of this run has died or does not respond ({reason})")


@cache
def _gloo_executor() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="reward-ranks")


@cache
def _gloo_group(timeout_s: float) -> Any:
    """Return the group for this timeout. All ranks must create it at the same point."""
    from torch import distributed

    return distributed.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s + RANK_TIMEOUT_MARGIN_S))

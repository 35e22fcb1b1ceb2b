"""Let the rewards of one sum be had together, whatever services they come from.

TRL asks each reward function on its own, all at the same moment with the same completions, and sums what they give.
In: those calls. Out, to each of them: what all of them had, once all have it. The first failure ends all.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from remote_rewards.distributed import all_ranks_succeed
from shared.aio import gather_or_cancel
from shared.schemas import RewardScores


@dataclass(frozen=True, slots=True)
class Had:
    """What one call had of its reward, and whether every process must have it of the same revision."""

    name: str
    reward: RewardScores
    pinned: bool


Scoring = Callable[[], Coroutine[Any, Any, Had]]
Check = Callable[[list[RewardScores]], None]
"""Raises where what all calls of a turn had is of no use."""


@dataclass(slots=True, eq=False)
class _Turn:
    """The calls of one moment for the same completions."""

    asked: tuple[Any, ...]  # held here, so that nothing else gets their identity
    check: Check
    work: list[Scoring] = field(default_factory=list)
    timeout_s: float = 0.0
    answer: asyncio.Task[list[Had]] | None = None
    waiting: int = 0


_turns: dict[tuple[int, ...], _Turn] = {}
"""Those that can still be joined, by the identity of the loop and of the completions."""


async def in_turn(
    completions: Sequence[Any], scoring: Scoring, check: Check, timeout_s: float
) -> tuple[RewardScores, list[RewardScores]]:
    """Give what this call had, and what all had that asked for the same completions at this moment.

    Raises what went wrong with any of them, or what `check` says of all, on every process of the run, also where two
    processes have a pinned reward of different revisions. What the longest `timeout_s` bounds is the wait for the
    other processes.
    """
    asked = (asyncio.get_running_loop(), completions)
    key = tuple(map(id, asked))
    turn = _turns.get(key)
    if turn is None:
        turn = _turns[key] = _Turn(asked, check)
        turn.answer = asyncio.create_task(_all(key, turn))
    place = len(turn.work)
    turn.work.append(scoring)
    turn.timeout_s = max(turn.timeout_s, timeout_s)
    had = await _answer(key, turn)
    return had[place].reward, [each.reward for each in had]


async def _answer(key: tuple[int, ...], turn: _Turn) -> list[Had]:
    assert turn.answer is not None
    turn.waiting += 1
    try:
        return await asyncio.shield(turn.answer)  # one caller that gives up takes nothing from the others
    finally:
        turn.waiting -= 1
        if not turn.waiting:
            _close(key, turn)
            turn.answer.cancel()


async def _all(key: tuple[int, ...], turn: _Turn) -> list[Had]:
    await asyncio.sleep(0)  # everyone who asks in this turn of the loop has joined after it
    _close(key, turn)
    return await all_ranks_succeed(_checked(turn), turn.timeout_s, _revisions_of)


async def _checked(turn: _Turn) -> list[Had]:
    had = await gather_or_cancel(scoring() for scoring in turn.work)
    turn.check([each.reward for each in had])
    return had


def _revisions_of(had: Sequence[Had]) -> dict[str, str]:
    return {each.name: each.reward.revision for each in had if each.pinned}


def _close(key: tuple[int, ...], turn: _Turn) -> None:
    """Let nobody join any more."""
    if _turns.get(key) is turn:
        del _turns[key]

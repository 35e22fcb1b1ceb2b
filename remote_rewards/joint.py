"""Let the rewards of one service travel in one request.

TRL asks each reward function on its own, all at the same moment with the same completions. In: those calls. Out: one
call of the client with all their names, whose response each of them gets whole.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from remote_rewards.client import RewardClient
from shared.schemas import ScoreResponse

Columns = Mapping[str, Sequence[Any]]


@dataclass(slots=True, eq=False)
class _Round:
    """One request that is about to be sent."""

    asked: tuple[Any, ...]
    columns: tuple[str, ...]
    revisions: dict[str, str | None] = field(default_factory=dict)  # by the name of each reward that is asked for
    answer: asyncio.Task[ScoreResponse] | None = None
    waiting: int = 0


class JointClient:
    """A client for several reward functions. May be used from any event loop, each with rounds of its own."""

    def __init__(self, client: RewardClient) -> None:
        self.client = client
        self._round: _Round | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"client": self.client, "_round": None}

    async def score(
        self,
        name: str,
        completions: Sequence[Any],
        prompts: Sequence[Any],
        columns: Columns,
        *,
        revision: str | None = None,
    ) -> ScoreResponse:
        """Score with the reward `name`, and with whatever else is asked of the same completions at this moment.

        No other `revision` of it is taken, where one is given.
        """
        asked = (asyncio.get_running_loop(), completions, prompts, *columns.values())
        names = tuple(columns)
        joined = self._round
        if joined is None or joined.columns != names or not _same(joined.asked, asked):
            joined = self._round = _Round(asked, names)
            joined.answer = asyncio.create_task(self._send(joined, completions, prompts, columns))
        joined.revisions[name] = revision
        joined.waiting += 1
        assert joined.answer is not None
        try:
            return await asyncio.shield(joined.answer)  # one caller that gives up takes nothing from the others
        finally:
            joined.waiting -= 1
            if not joined.waiting:
                self._close(joined)
                joined.answer.cancel()

    async def _send(
        self, joined: _Round, completions: Sequence[Any], prompts: Sequence[Any], columns: Columns
    ) -> ScoreResponse:
        await asyncio.sleep(0)  # everyone who asks in this turn of the loop has joined after it
        self._close(joined)
        pinned = {name: revision for name, revision in joined.revisions.items() if revision is not None}
        return await self.client.ascore(completions, prompts, columns, list(joined.revisions), revisions=pinned)

    def _close(self, joined: _Round) -> None:
        """Let nobody join any more."""
        if self._round is joined:
            self._round = None


def _same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """Tell whether two calls are about the very same objects; equal ones may still be two batches."""
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))

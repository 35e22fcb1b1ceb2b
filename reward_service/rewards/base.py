"""What a reward is: texts in, as many scores out, in their order."""

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from shared.schemas import ItemError, RewardInfo, Text, is_valid_score


@dataclass(frozen=True, slots=True)
class Items:
    """Texts to score, as columns of one length."""

    completions: Sequence[str]
    prompts: Sequence[str] | None = None
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    chats: Sequence[Text] = ()
    """The completions as they came, messages included, for a reward that wants them."""
    prompt_chats: Sequence[Text] | None = None
    deadline_s: float = float("inf")
    """On the monotonic clock: work that has not begun by then is not worth beginning."""
    memo: dict[int, "asyncio.Task[Scores]"] = field(default_factory=dict, compare=False, repr=False)
    """What has been asked of each reward already, by its identity: two may say that they have one name."""

    def __len__(self) -> int:
        return len(self.completions)


@dataclass(slots=True)
class Scores:
    """One score an item, or None with the reason in `errors`."""

    scores: list[float | None]
    details: list[dict[str, Any] | None]
    errors: dict[int, ItemError] = field(default_factory=dict)
    truncated: list[int] = field(default_factory=list)
    queue_ms: float = 0.0
    compute_ms: float = 0.0


def null_non_finite(result: Scores) -> None:
    """Replace what is not a number by None and its reason: one infinity would ruin a whole group's advantages."""
    for index, score in enumerate(result.scores):
        if score is not None and not is_valid_score(score):
            result.scores[index], result.details[index] = None, None
            result.errors[index] = ItemError(code="not_finite", message=f"the score came out as {score:g}")


def finite_range(ends: tuple[float, float] | None) -> tuple[float, float] | None:
    """Give a range to tell callers of; None for one without end."""
    return ends if ends is not None and all(map(math.isfinite, ends)) else None


async def score_once(reward: "Reward", items: Items) -> Scores:
    """Give what a reward says, asked once for all that need it: a second answer could be another one."""
    task = items.memo.get(id(reward))
    if task is None:
        task = items.memo[id(reward)] = asyncio.create_task(reward.score(items))
    return await task


class Reward(Protocol):
    """Scores texts. `info.revision` covers all that the scores depend on."""

    info: RewardInfo

    async def score(self, items: Items) -> Scores:
        """Score every item; raise a `RewardServiceError` only if none can be scored."""
        ...

    async def start(self) -> None:
        """Begin whatever runs beside the calls."""
        ...

    async def stop(self) -> None:
        """End it; what still waits is answered with an error."""
        ...

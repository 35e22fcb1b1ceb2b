"""The reward interface: the texts of a request in, one score per text out, in order."""

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from reward_service.backends.base import Logits
from shared.schemas import MAX_ABS_SCORE, ItemError, RewardInfo, Text, is_valid_score


@dataclass(slots=True)
class Scores:
    """One score per item, or None with the reason in `errors`."""

    scores: list[float | None]
    details: list[dict[str, Any] | None]
    errors: dict[int, ItemError] = field(default_factory=dict)
    truncated: list[int] = field(default_factory=list)
    logits: list[Logits | None] = field(default_factory=list)
    """A model's outputs per item; empty for a reward without a model."""
    tokens: list[int] = field(default_factory=list)
    """Number of tokens that models read of each item; empty for a reward without a model."""
    overlong: list[int] = field(default_factory=list)
    queue_ms: float = 0.0
    compute_ms: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    """What a function logged with TRL's `log_metric`."""
    extra: dict[str, list[Any]] = field(default_factory=dict)
    """The columns that a function logged with TRL's `log_extra`, one value per item."""


def all_failed(count: int, code: str, message: str) -> Scores:
    """Return scores of `count` items that all failed for one reason."""
    error = ItemError(code=code, message=message)
    return Scores(scores=[None] * count, details=[None] * count, errors=dict.fromkeys(range(count), error))


def column_errors(info: RewardInfo, items: "Items") -> Scores | None:
    """Return the scores of items that lack a column which the reward reads; None if they have all."""
    missing = next((column for column in info.columns or () if column not in items.columns), None)
    if missing is None:
        return None
    return all_failed(len(items), "column_needed", f"{info.name} reads the column {missing!r}: send it in `columns`")


def null_non_finite(result: Scores) -> None:
    """Replace scores that are not finite by None with a reason: one infinity would ruin a whole group's advantages."""
    for index, score in enumerate(result.scores):
        if score is not None and not is_valid_score(score):
            result.scores[index], result.details[index] = None, None
            problem = f"beyond ±{MAX_ABS_SCORE:g}" if math.isfinite(score) else "not a finite number"
            result.errors[index] = ItemError(code="not_finite", message=f"the score is {score:g}, {problem}")


def finite_range(ends: tuple[float, float] | None) -> tuple[float, float] | None:
    """Return the range if both ends are finite, else None."""
    return ends if ends is not None and all(map(math.isfinite, ends)) else None


class Reward(Protocol):
    """Scores texts. Subclass it and define `info` and `score`; the rest has defaults for rewards without a queue."""

    info: RewardInfo
    """`info.revision` covers everything that the scores depend on."""

    async def score(self, items: "Items") -> Scores:
        """Score every item. Raise a `RewardServiceError` only if no item can be scored."""
        ...

    async def start(self) -> None:
        """Start background work. Called once, before the first `score`."""
        return

    async def stop(self) -> None:
        """Stop background work. Pending calls end with an error."""
        return

    @property
    def depth(self) -> int:
        """Return the number of queued texts."""
        return 0

    @property
    def backlog_s(self) -> float:
        """Return the estimated compute time of the queued texts, in seconds."""
        return 0.0

    @property
    def healthy(self) -> bool:
        """Return whether calls can currently be scored."""
        return True

    @property
    def accepts_canary(self) -> bool:
        """Return whether the reward must score the canary text before it is served."""
        return True

    @property
    def canary_prefix(self) -> str:
        """Return what must precede the canary text for the reward to read it."""
        return ""

    def check_deadline(self, deadline_s: float) -> None:
        """Raise `Overloaded` if the queue is too long for a call with this deadline (monotonic clock)."""
        return


@dataclass(slots=True, eq=False)
class Items:
    """The texts of one request, as columns of one length, and the scores computed for them so far."""

    completions: Sequence[str]
    prompts: Sequence[str] | None = None
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    chats: Sequence[Text] = ()
    """The completions as sent, chat messages included."""
    prompt_chats: Sequence[Text] | None = None
    trainer_state: Mapping[str, Any] | None = None
    """The plain fields of TRL's trainer state."""
    deadline_s: float = math.inf
    """On the monotonic clock. Work that has not started by then is dropped."""
    _scores: dict[Reward, asyncio.Task[Scores]] = field(default_factory=dict, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.completions)

    async def score_with(self, reward: Reward) -> Scores:
        """Return a reward's scores, computed once per request: a second computation could differ."""
        task = self._scores.get(reward)
        if task is None:
            task = self._scores[reward] = asyncio.create_task(reward.score(self))
        return await task

"""Decide what failed items mean for a run. Pure functions, and the count of the recent failures.

An item that a reward does not apply to has no score on purpose and has not failed.
"""

from collections import deque
from collections.abc import Container, Iterable, Sequence
from typing import Any

from shared.errors import FailureBudgetExceeded
from shared.schemas import ItemError, RewardScores

NOT_APPLICABLE = "not_applicable"
BUDGET_CALLS = 10
"""Number of recent calls that the failure budget covers."""
MAX_OVERLONG_SHARE = 0.5
"""Share of recent completions that may be longer than the reward's model reads: past it most scores miss their ends."""


class FailureBudget:
    """The share of the items of recent calls that may fail before the run is stopped."""

    def __init__(self, name: str, max_share: float) -> None:
        self.name, self.max_share = name, max_share
        self._recent: deque[tuple[int, int]] = deque(maxlen=BUDGET_CALLS)  # (failed, items) of each call
        self._recent_overlong: deque[tuple[int, int]] = deque(maxlen=BUDGET_CALLS)  # (overlong, items) of each call

    def record(self, reward: RewardScores) -> None:
        """Count one call's failed and overlong items. Raises `FailureBudgetExceeded`."""
        self._check_overlong(reward)
        errors = failed_items([reward]).values()
        self._recent.append((len(errors), len(reward.scores)))
        if exceeds_budget(self._recent, self.max_share):
            failed, items = _totals(self._recent)
            reasons = sorted({f"{error.code}: {error.message}" for error in errors})
            raise FailureBudgetExceeded(
                f"{failed} of the last {items} completions have no {self.name!r} score, more than {self.max_share:.0%} "
                f"allowed; {'; '.join(reasons[:3])}"
            )

    def _check_overlong(self, reward: RewardScores) -> None:
        self._recent_overlong.append((len(reward.overlong), len(reward.scores)))
        overlong, items = _totals(self._recent_overlong)
        if overlong > MAX_OVERLONG_SHARE * items:
            raise FailureBudgetExceeded(
                f"{overlong} of the last {items} completions are longer than the model of {self.name!r} reads, so that "
                f"their scores miss a part of them: reduce max_completion_length, or use a reward that reads more"
            )


def exceeds_budget(recent: Iterable[tuple[int, int]], max_share: float) -> bool:
    """Return whether more items failed in recent calls than allowed: one always may, but never all of them.

    Each call is a pair: failed items, all items.
    """
    failed, items = _totals(recent)
    return failed > max(1.0, max_share * items) or (items > 0 and failed == items)


def _totals(recent: Iterable[tuple[int, int]]) -> tuple[int, int]:
    failed, items = (sum(counts) for counts in zip(*recent, strict=True))
    return failed, items


def failed_items(rewards: Iterable[RewardScores]) -> dict[str, ItemError]:
    """Return the items on which any of the rewards failed, by index as on the wire, with one error each."""
    errors = (item for reward in rewards for item in reward.errors.items())
    return {index: error for index, error in errors if error.code != NOT_APPLICABLE}


def mask_failed(reward: RewardScores, rewards: Iterable[RewardScores]) -> list[float | None]:
    """Return a reward's scores, with None for the items on which any of the summed rewards failed.

    TRL sums the rewards that an item has: the sum of those that are left after a failure would be a wrong reward.
    """
    failed = failed_items(rewards)
    return [None if str(index) in failed else score for index, score in enumerate(reward.scores)]


def mask_unlearned(watched: RewardScores, rewards: Sequence[RewardScores]) -> list[float | None]:
    """Return a watched reward's scores, with None for the items without any score of the summed rewards.

    TRL would sum the watched score alone, times its weight of 0: a reward of 0 that nobody gave.
    """
    columns = [mask_failed(reward, rewards) for reward in rewards]
    if not columns:
        return watched.scores
    items = zip(watched.scores, zip(*columns, strict=True), strict=True)
    return [None if all(other is None for other in summed) else score for score, summed in items]


def check_all_scored(name: str, reward: RewardScores) -> None:
    """Raise `FailureBudgetExceeded` if an item has no score, whether the reward failed or does not apply."""
    for index, error in reward.errors.items():
        raise FailureBudgetExceeded(
            f"completion {index} of {len(reward.scores)} has no {name!r} score, and the trainer would use 0.0 for it; "
            f"{error.code}: {error.message}"
        )


def check_fully_failed_group(prompts: Sequence[Any], rewards: Sequence[RewardScores]) -> None:
    """Raise `FailureBudgetExceeded` if every completion of a prompt lacks one of its scores."""
    failed = failed_items(rewards)
    if prompt := fully_failed_group(failed, prompts):
        error = next(iter(failed.values()))
        raise FailureBudgetExceeded(
            f"no completion of the prompt {prompt[:80]!r} has all its scores: there is nothing to compare; "
            f"{error.code}: {error.message}"
        )


def fully_failed_group(failed: Container[str], prompts: Sequence[Any]) -> str | None:
    """Return a prompt with several completions that all failed, and so without a baseline; None if there is none."""
    groups: dict[str, list[bool]] = {}
    for index, prompt in enumerate(prompts):
        groups.setdefault(repr(prompt), []).append(str(index) in failed)
    return next((prompt for prompt, failures in groups.items() if len(failures) > 1 and all(failures)), None)

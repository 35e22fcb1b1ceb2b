"""Read the file of `reward-trainer sample`, and choose from it: the best and the worst completion of each prompt.

Never: completions whose scores come from two revisions of a reward, because such scores do not compare.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.errors import did_you_mean
from trainer.errors import TrainerError
from trainer.jsonl_lines import objects_of
from trainer.reward_model.pairs import Pair, check_text

EXPECTED = (
    "a sampled completion is an object with prompt, completion and scores, as `reward-trainer sample` writes it; "
    "finish an interrupted file with its --resume_from_checkpoint true"
)

Record = Mapping[str, Any]


@dataclass(frozen=True)
class SampledCompletions:
    """The completions of a file with their scores. Those of a prompt need not be adjacent."""

    records: Sequence[Record]
    reward: str
    """The reward to choose by."""
    revision: str | None
    """What scored them; None if the file does not say."""

    def best_and_worst(self, margin: float) -> list[tuple[Record, Record]]:
        """Return the best and the worst completion of each prompt in which they are more than `margin` apart."""
        ends = [(ordered[-1], ordered[0]) for ordered in self._ordered()]
        return [(best, worst) for best, worst in ends if self._score(best) - self._score(worst) > margin]

    def best(self, min_score: float) -> list[Record]:
        """Return the best completion of each prompt in which it scored `min_score` or more."""
        return [ordered[-1] for ordered in self._ordered() if self._score(ordered[-1]) >= min_score]

    def _ordered(self) -> Iterator[list[Record]]:
        """Yield the completions of each prompt by their scores, without those that have no score or no text."""
        for group in self._by_prompt().values():
            usable = [record for record in group if record["completion"].strip()]
            usable = [record for record in usable if record["scores"][self.reward] is not None]
            if usable:
                yield sorted(usable, key=self._score)

    def _by_prompt(self) -> dict[str, list[Record]]:
        """Return the completions by prompt and columns, which both decide the scores, in the order of the file."""
        groups: dict[str, list[Record]] = {}
        for record in self.records:
            key = json.dumps([record["prompt"], record.get("columns")], sort_keys=True)
            groups.setdefault(key, []).append(record)
        return groups

    def _score(self, record: Record) -> float:
        return float(record["scores"][self.reward])


def is_sampled(path: Path) -> bool:
    """Return whether a file holds completions with scores, rather than pairs, by its first line that is not empty."""
    try:
        _, first = next(objects_of(path, EXPECTED), ("", {}))
    except TrainerError:  # whoever reads the pairs names the error
        return False
    return {"completion", "scores"} <= first.keys()


def read_sampled(path: Path, reward: str | None = None) -> SampledCompletions:
    """Read sampled completions to choose from by `reward`, by default the first one of the file.

    Raises `TrainerError`, which names the line, also for another revision of the reward.
    """
    records: list[Record] = []
    revision = None
    for place, record in objects_of(path, EXPECTED):
        _check_record(record, place)
        if not records:
            reward = _reward_of(record, reward, path)
            revision = _revision(record, reward)
        _check_score(record, str(reward), place)
        if (other := _revision(record, reward)) != revision:
            raise TrainerError(
                f"{place} was scored by revision {other} of {reward!r}, the lines before it by {revision}: scores of "
                f"two revisions do not compare, so sample all completions with one"
            )
        records.append(record)
    return SampledCompletions(records, str(reward), revision)


def read_sampled_pairs(path: Path, *, reward: str | None, margin: float) -> list[Pair]:
    """Return the best and the worst completion of each prompt as a pair of chats, in the order of the prompts.

    Raises `TrainerError` if the file does not have the reward, or gives no pair.
    """
    sampled = read_sampled(path, reward)
    pairs = [
        Pair(turn_of(best["completion"]), turn_of(worst["completion"]), best["prompt"])
        for best, worst in sampled.best_and_worst(margin)
    ]
    if not pairs:
        raise TrainerError(no_pair(path, sampled.reward, margin))
    return pairs


def no_pair(path: Path, reward: str, margin: float) -> str:
    """Return what is wrong with a file that gives no pair, and what to do."""
    return (
        f"{path} gives no pair: in no prompt are the scores of {reward!r} more than {margin:g} apart; sample more "
        f"completions of each prompt, or lower --margin"
    )


def turn_of(completion: str) -> list[dict[str, Any]]:
    """Return a completion as the assistant's turn."""
    return [{"role": "assistant", "content": completion}]


def _check_record(record: Record, place: str) -> None:
    if "prompt" not in record or not isinstance(record.get("completion"), str):
        raise TrainerError(f"{place} has no prompt or no completion: {EXPECTED}")
    check_text(record["prompt"], "prompt", place)
    scores, revisions = record.get("scores"), record.get("revisions", {})
    if not (isinstance(scores, dict) and scores and isinstance(revisions, dict)):
        raise TrainerError(f"{place} has no scores: {EXPECTED}")


def _reward_of(first: Record, reward: str | None, path: Path) -> str:
    names = list(first["scores"])
    name = str(names[0] if reward is None else reward)
    if name not in names:
        raise TrainerError(f"{path} has no scores of {name!r}{did_you_mean(name, names)}; it has {', '.join(names)}")
    return name


def _check_score(record: Record, reward: str, place: str) -> None:
    score = record["scores"].get(reward, math.nan)
    is_number = isinstance(score, int | float) and not isinstance(score, bool) and math.isfinite(score)
    if score is not None and not is_number:
        raise TrainerError(f"{place} has no score of {reward!r}, a number or null")


def _revision(record: Record, reward: str | None) -> str | None:
    revision = record.get("revisions", {}).get(reward)
    return None if revision is None else str(revision)

"""Preference pairs of sampled completions: the best and the worst of each prompt, by a reward's scores.

In: the file of `reward-trainer sample`. Out: `Pair`s of chats, in the order of the prompts.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from shared.errors import did_you_mean
from trainer.errors import TrainerError
from trainer.reward_model.pairs import Pair

Record = Mapping[str, Any]


def is_sampled(path: Path) -> bool:
    """Return whether a file holds completions with scores, rather than pairs, by its first line."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            first = json.loads(file.readline())
    except (OSError, ValueError, RecursionError):  # whoever reads the pairs names the error
        return False
    return isinstance(first, dict) and {"completion", "scores"} <= first.keys()


def read_sampled_pairs(path: Path, *, reward: str | None, margin: float) -> list[Pair]:
    """Read a file of sampled completions. Raises `TrainerError` if it does not have the reward, or gives no pair.

    `reward` is the name of the scores to choose by, by default the first ones. `margin` is how much more than the worst
    completion of its prompt the best one must have scored.
    """
    records = list(read_records(path))
    names = list(records[0]["scores"])
    name = names[0] if reward is None else reward
    if name not in names:
        raise TrainerError(f"{path} has no scores of {name!r}{did_you_mean(name, names)}; it has {', '.join(names)}")
    pairs = best_and_worst(records, name, margin)
    if not pairs:
        raise TrainerError(
            f"{path} gives no pair: in no prompt are the scores of {name!r} more than {margin:g} apart; sample more "
            f"completions of each prompt, or lower --margin"
        )
    return pairs


def read_records(path: Path) -> Iterator[Record]:
    """Yield the sampled completions of a file. Raises `TrainerError`, which names the line."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            try:
                record = json.loads(line)
                _ = record["prompt"], record["completion"].strip(), record["scores"].keys()
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise TrainerError(
                    f"{path} line {number} is no completion with prompt and scores, as `reward-trainer sample` writes "
                    f"them; finish an interrupted file with its --resume_from_checkpoint true"
                ) from error
            yield record


def best_and_worst(records: Iterable[Record], reward: str, margin: float) -> list[Pair]:
    """Return a pair for each prompt whose best completion scored more than `margin` above its worst.

    Completions without a score or without text are left out. The records of a prompt are adjacent.
    """
    pairs = []
    for _, group in groupby(records, key=lambda record: json.dumps(record["prompt"])):
        scored = [record for record in group if record["scores"].get(reward) is not None]
        scored = sorted(
            (record for record in scored if record["completion"].strip()), key=lambda record: record["scores"][reward]
        )
        if scored and scored[-1]["scores"][reward] - scored[0]["scores"][reward] > margin:
            worst, best = scored[0], scored[-1]
            pairs.append(Pair(_turn(best["completion"]), _turn(worst["completion"]), best["prompt"]))
    return pairs


def _turn(completion: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": completion}]

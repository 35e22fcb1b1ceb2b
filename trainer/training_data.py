"""What a policy learns from: prompts that it completes in training, or completions in a file, chosen by their scores.

In: a run's settings. Out: a dataset as TRL's trainer of the algorithm expects it, and what chose its completions.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets import Dataset

from shared.errors import RevisionChanged, did_you_mean
from shared.text import Chat
from trainer.algorithms import OFFLINE, TEMPLATE_KWARGS
from trainer.display import log
from trainer.errors import TrainerError
from trainer.jsonl_lines import objects_of
from trainer.prompts import Row, read_prompts, to_dataset, turns_before
from trainer.reward_model.pairs import EXAMPLE, Text, check_text, read_pairs
from trainer.reward_model.reading import as_chat
from trainer.run_arguments import RunArguments
from trainer.sampled_completions import Record, is_sampled, no_pair, read_sampled, turn_of

CUT_OFF = "cut_off"
"""Ends the names of columns that say whether a completion reached the maximum number of tokens: it has no end token."""
EXPECTED = 'a demonstration is an object such as {"prompt": "…", "completion": "…"}'


@dataclass(frozen=True)
class TrainingData:
    """The dataset of a run."""

    rows: Sequence[Row]
    """Chats under `prompt`, and for the offline algorithms under `chosen` and `rejected`, or `completion`."""
    offline: bool = False
    path: Path | None = None
    reward: str | None = None
    """The reward whose scores have chosen the completions."""
    revision: str | None = None

    def dataset(self, template_kwargs: Mapping[str, Any] | None) -> Dataset:
        """Return the rows as TRL expects them: for DPO and SFT with the arguments of the chat template in each."""
        if not self.offline:
            return to_dataset(self.rows)
        column = {TEMPLATE_KWARGS: template_kwargs} if template_kwargs else {}
        return Dataset.from_list([{**row, **column} for row in self.rows])

    @property
    def manifest(self) -> dict[str, Any]:
        """What rewards.json says about the completions; nothing for the online algorithms."""
        if not self.offline:
            return {}
        digest = hashlib.sha256(json.dumps([*self.rows]).encode()).hexdigest()[:16]
        described = {"file": str(self.path), "hash": digest, "rows": len(self.rows)}
        return {"completions": {**described, "chosen_by": self.reward, "revision": self.revision}}

    @property
    def text(self) -> str:
        """The completions in words, for a log; empty for the online algorithms."""
        chosen = f", chosen by {self.reward}" if self.reward else ""
        return f"{len(self.rows)} rows of {self.path}{chosen}" if self.offline else ""


def load_training_data(run: RunArguments) -> TrainingData:
    """Return what a run learns from. Raises `TrainerError`, with the line where a file is wrong."""
    if run.algorithm not in OFFLINE:
        return TrainingData(read_prompts(run.prompts, **run.before_prompts))
    path = Path(str(run.completions)).expanduser()
    data = _chosen(run, path) if is_sampled(path) else _written(run, path)
    before = turns_before(**run.before_prompts)
    rows = [{**row, "prompt": [*_missing(before, row["prompt"]), *row["prompt"]]} for row in data.rows]
    return replace(data, rows=rows)


def check_revision_of(data: TrainingData, served: Mapping[str, str], *, allow_change: bool) -> None:
    """Raise `RevisionChanged`, or log it, if the service has another revision than the one behind the file's scores."""
    if data.reward is None or data.revision is None or served.get(data.reward) == data.revision:
        return
    difference = (
        f"the completions in {data.path} were scored by revision {data.revision} of {data.reward!r}, and the service "
        f"has {served.get(data.reward)}"
    )
    if not allow_change:
        raise RevisionChanged(
            f"{difference}: sample again, serve the earlier one, or pass --allow_revision_change true to evaluate with "
            f"another one than was trained on"
        )
    log(f"{difference}, which evaluates the policy")


def _chosen(run: RunArguments, path: Path) -> TrainingData:
    """Return the completions of a file of `reward-trainer sample` that their scores choose."""
    sampled = read_sampled(path, run.rewards[0])
    if run.algorithm == "dpo":
        rows = [_row(best["prompt"], chosen=best, rejected=worst) for best, worst in sampled.best_and_worst(run.margin)]
        reason = no_pair(path, sampled.reward, run.margin)
    else:
        bound = -math.inf if run.min_score is None else run.min_score
        rows = [_row(best["prompt"], completion=best) for best in sampled.best(bound)]
        reason = f"{path} gives no completion: none has a score of {sampled.reward!r} of at least {bound:g}"
    if not rows:
        raise TrainerError(reason)
    return TrainingData(rows, True, path, sampled.reward, sampled.revision)


def _written(run: RunArguments, path: Path) -> TrainingData:
    """Return the pairs or demonstrations of a file that someone has written."""
    rows = [*(_preferences(path) if run.algorithm == "dpo" else _demonstrations(path))]
    if not rows:
        raise TrainerError(f"{path} holds no completions: {EXPECTED}")
    return TrainingData(rows, True, path)


def _row(prompt: Text, **sampled: Record) -> Row:
    """Return a row with sampled completions, and whether each was cut off before its end token."""
    turns = {name: turn_of(record["completion"]) for name, record in sampled.items()}
    cut_off = {f"{name}_{CUT_OFF}": bool(record.get("cut_off")) for name, record in sampled.items()}
    return {"prompt": _chat(prompt, "user"), **turns, **cut_off}


def _preferences(path: Path) -> Iterator[Row]:
    for pair in read_pairs(path):
        if pair.prompt is None:
            raise TrainerError(
                f"{path} holds pairs without a prompt, and dpo learns to complete prompts: write lines such as "
                f"{EXAMPLE}"
            )
        yield {
            "prompt": _chat(pair.prompt, "user"),
            "chosen": _chat(pair.chosen, "assistant"),
            "rejected": _chat(pair.rejected, "assistant"),
        }


def _demonstrations(path: Path) -> Iterator[Row]:
    for place, row in objects_of(path, EXPECTED):
        for key in ("prompt", "completion"):
            if row.get(key) is None:
                raise TrainerError(f"{place} has no {key!r}{did_you_mean(key, row)}: {EXPECTED}")
            check_text(row[key], key, place)
        yield {"prompt": _chat(row["prompt"], "user"), "completion": _chat(row["completion"], "assistant")}


def _chat(text: Text, role: str) -> Chat:
    """Return a text or chat as messages with role and content alone: a dataset's column has one type."""
    return [{key: message[key] for key in ("role", "content")} for message in as_chat(text, role)]


def _missing(before: Chat, prompt: Chat) -> Chat:
    """Return what comes before every prompt, unless the prompt brings its own: one that was sampled does."""
    return [] if prompt[0]["role"] == "system" or prompt[: len(before)] == before else before

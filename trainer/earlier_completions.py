"""Resume an interrupted `reward-trainer sample` from its file: with the same settings, after the last whole batch.

In: `completions.jsonl`, and `sampling.json` beside it, which holds the settings that the completions depend on. Never:
completions of two policies or decodings in one file, or a prompt that is skipped. What differs is named instead.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from trl import ModelConfig

from shared.errors import check_revision
from trainer.algorithms import TrainingConfig
from trainer.errors import TrainerError
from trainer.prompts import Row
from trainer.run_arguments import RunArguments

SETTINGS_FILE = "sampling.json"
FLAGS = (
    *("model_name_or_path", "dtype", "attn_implementation", "num_generations", "eval_batch", "seed", "temperature"),
    *("max_completion_length", "top_p", "top_k", "min_p", "repetition_penalty", "chat_template_kwargs"),
    "judges",
)
"""The flags that the records depend on, beside those of prompts and rewards, which the records hold themselves."""
WEIGHTS = "weights"
INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
BEGIN_AGAIN = "or begin again with --overwrite true and without --resume_from_checkpoint"

Record = dict[str, Any]


def sampling_settings(run: RunArguments, args: TrainingConfig, model: ModelConfig, policy: PreTrainedModel) -> Record:
    """Return the content of `sampling.json`: the flags that the completions depend on, and a checksum of the policy."""
    values = {**vars(run), **vars(args), **vars(model)}
    settings = {name: values.get(name) for name in FLAGS} | {WEIGHTS: checksum(policy)}
    return dict(json.loads(json.dumps(settings, default=str)))


def checksum(policy: PreTrainedModel) -> str:
    """Return the sum of the weights' bits, read as integers: it depends on no order of summation, thread or device."""
    bits = (weights.detach().view(INTEGERS[weights.element_size()]) for weights in policy.parameters())
    return f"{sum(int(part.sum(dtype=torch.int64)) for part in bits) % 2**64:016x}"


def earlier_records(file: Path, *, overwrite: bool, resume: bool) -> list[Record]:
    """Return the records of an interrupted run, none if it is replaced. Raises `TrainerError` without `resume`."""
    if not file.exists() or (overwrite and not resume):
        return []
    if not resume:
        raise TrainerError(
            f"{file} holds earlier completions: pass --resume_from_checkpoint true to continue them, --overwrite true "
            f"to replace them, or another --output_dir"
        )
    return list(_records_of(file))


def _records_of(file: Path) -> Iterator[Record]:
    """Yield the records of a file up to a line that was cut short by a crash."""
    for line in file.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            record = json.loads(line)
        except ValueError:
            return
        if not isinstance(record, dict):
            return
        yield record


def check_same_rewards(
    records: Sequence[Record], revisions: Mapping[str, str], *, allow_revision_change: bool = False
) -> None:
    """Check that the earlier completions were scored by these rewards.

    Raises `TrainerError` for other rewards, and `RevisionChanged` for other revisions unless they may change.
    """
    for record in records:
        before = record.get("revisions") or {}
        if before.keys() != revisions.keys():
            raise TrainerError(
                f"the earlier completions were scored by {', '.join(before)}, and this run asks for "
                f"{', '.join(revisions)}: resume with the same rewards, {BEGIN_AGAIN}"
            )
        for name, revision in revisions.items() if not allow_revision_change else ():
            check_revision(name, revision, before[name])


def records_to_keep(
    file: Path, records: Sequence[Record], rows: Sequence[Row], settings: Mapping[str, Any], *, batch_size: int
) -> list[Record]:
    """Return the records of whole batches, after which a run with these settings may continue. `batch_size` is in rows.

    Raises `TrainerError` if the file was begun with other settings or prompts.
    """
    if not records:
        return []
    check_same_settings(file.with_name(SETTINGS_FILE), settings)
    completions = int(settings["num_generations"])
    check_same_prompts(file, records, rows, completions)
    whole = len(records) == len(rows) * completions
    return list(records[: len(records) - (0 if whole else len(records) % (batch_size * completions))])


def check_same_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Raise `TrainerError` if the settings in `sampling.json` are others than these; the message names each."""
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainerError(
            f"cannot read {path}, which holds the settings of the earlier completions: name another --output_dir, "
            f"{BEGIN_AGAIN}"
        ) from error
    differing = [name for name in settings if settings[name] != before.get(name)]
    described = [
        "other weights of the policy" if name == WEIGHTS else f"--{name} {before.get(name)} instead of {settings[name]}"
        for name in differing
    ]
    if described:
        raise TrainerError(
            f"the earlier completions in {path.parent} were sampled with {', '.join(described)}: resume with the same "
            f"settings, {BEGIN_AGAIN}"
        )


def check_same_prompts(file: Path, records: Sequence[Record], rows: Sequence[Row], completions: int) -> None:
    """Raise `TrainerError` unless the records are `completions` of each row, in the order of the rows."""
    for index, record in enumerate(records):
        row = rows[index // completions] if index < len(rows) * completions else None
        if row is None or {**(record.get("columns") or {}), "prompt": record.get("prompt")} != row:
            raise TrainerError(
                f"{file} line {index + 1} is of another prompt than --prompts, --system_prompt and --few_shot give "
                f"there: resume with the same prompts, {BEGIN_AGAIN}"
            )

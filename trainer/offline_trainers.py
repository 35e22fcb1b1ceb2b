"""TRL's DPO and SFT with a run folder: they learn from completions in a file, and generate none while they train.

A completion that was cut off at its maximum length has no end token in the training data: a policy that learned one
would stop in the middle of a sentence.
"""

from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from trl import DPOTrainer, SFTTrainer

from trainer.recorded_trainer import RecordedTrainer
from trainer.training_data import CUT_OFF


class RecordedDPOTrainer(RecordedTrainer, DPOTrainer):  # type: ignore[misc]
    """DPO that writes to a run folder."""

    def _prepare_dataset(self, *args: Any, **kwargs: Any) -> Dataset:
        dataset = super()._prepare_dataset(*args, **kwargs)
        for side in ("chosen", "rejected"):
            dataset = without_end(dataset, f"{side}_{CUT_OFF}", [f"{side}_ids"], self._tokenizer.eos_token_id)
        return dataset


class RecordedSFTTrainer(RecordedTrainer, SFTTrainer):  # type: ignore[misc]
    """SFT that writes to a run folder."""

    def _prepare_dataset(self, dataset: Dataset, processing_class: Any, args: Any, *rest: Any) -> Dataset:
        prepared = super()._prepare_dataset(dataset, processing_class, args, *rest)
        columns, end = ["input_ids", "labels"], self._tokenizer.eos_token_id
        return without_end(prepared, f"completion_{CUT_OFF}", columns, end, max_length=args.max_length)


def without_end(
    dataset: Dataset, flag: str, columns: Sequence[str], end_id: int, *, max_length: int | None = None
) -> Dataset:
    """Return a dataset whose token columns end before the last end token where the column `flag` is true.

    The first column tells where that is. One of `max_length` tokens is left as it is: TRL has truncated it already.
    """
    if flag not in dataset.column_names:
        return dataset

    def trim(row: dict[str, Any]) -> dict[str, Any]:
        ids = row[columns[0]]
        if not row[flag] or end_id not in ids or len(ids) == max_length:
            return {}
        length = len(ids) - 1 - ids[::-1].index(end_id)
        return {name: row[name][:length] for name in columns}

    return dataset.map(trim)

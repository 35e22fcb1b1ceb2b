"""TRL's DPO and SFT with a run folder: they learn from completions in a file, and generate none while they train.

A completion that was cut off at its maximum length has no end token in the training data: a policy that learned one
would stop in the middle of a sentence.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import DPOTrainer, SFTTrainer

from trainer.generation import end_token_ids
from trainer.recorded_trainer import RecordedTrainer
from trainer.training_data import CUT_OFF

NOT_LEARNED = -100
"""The label of a token that is not learned."""


class OfflineTrainer(RecordedTrainer):
    """Knows the tokens that end a completion. List it before TRL's class."""

    def __init__(self, *, model: PreTrainedModel, processing_class: PreTrainedTokenizerBase, **kwargs: Any) -> None:
        self._end_ids = end_token_ids(model, processing_class)
        super().__init__(model=model, processing_class=processing_class, **kwargs)


class RecordedDPOTrainer(OfflineTrainer, DPOTrainer):  # type: ignore[misc]
    """DPO that writes to a run folder."""

    def _prepare_dataset(self, *args: Any, **kwargs: Any) -> Dataset:
        dataset = super()._prepare_dataset(*args, **kwargs)
        for side in ("chosen", "rejected"):
            dataset = without_end(dataset, f"{side}_{CUT_OFF}", [f"{side}_ids"], self._end_ids)
        return dataset


class RecordedSFTTrainer(OfflineTrainer, SFTTrainer):  # type: ignore[misc]
    """SFT that writes to a run folder."""

    def _prepare_dataset(self, *args: Any, **kwargs: Any) -> Dataset:
        dataset = super()._prepare_dataset(*args, **kwargs)
        return without_end(dataset, f"completion_{CUT_OFF}", ["input_ids", "labels"], self._end_ids)


def without_end(dataset: Dataset, flag: str, columns: Sequence[str], end_ids: Collection[int]) -> Dataset:
    """Return a dataset whose token columns end before the completion's first end token where `flag` is true.

    The first column tells where that is. A chat template may end a completion with several end tokens.
    """
    if flag not in dataset.column_names:
        return dataset

    def trim(row: Mapping[str, Any]) -> dict[str, Any]:
        start = completion_start(row)
        length = next((n for n, token in enumerate(row[columns[0]]) if n >= start and token in end_ids), None)
        return {name: row[name][:length] for name in columns} if row[flag] else {}

    return dataset.map(trim)


def completion_start(row: Mapping[str, Any]) -> int:
    """Return the index of the completion's first token in a row that TRL has prepared for SFT; 0 for DPO.

    TRL keeps the mask of the completion if the prompt is learned, too.
    """
    mask = row.get("completion_mask") or [label != NOT_LEARNED for label in row.get("labels", ())]
    return next((index for index, is_completion in enumerate(mask) if is_completion), len(mask))

"""TRL's RewardTrainer with batches of similar length, token types, and one line of metrics for each log.

The loss is TRL's, unchanged.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate.utils import is_peft_model
from datasets import Dataset
from torch.utils.data import Sampler
from transformers import PreTrainedModel
from trl import RewardTrainer
from trl.trainer.reward_trainer import DataCollatorForPreference
from trl.trainer.utils import pad

from trainer.recorded_trainer import nan_to_none
from trainer.reward_model.reading import Encoded, EncodedPair
from trainer.run_folder import RunFolder

BUCKET_BATCHES = 32
"""Batches in a length-sorted bucket: little padding, but still shuffled."""


class RecordedRewardTrainer(RewardTrainer):  # type: ignore[misc]
    """RewardTrainer that writes to a run folder. `train_pairs` gives the lengths of the dataset's pairs."""

    def __init__(self, *args: Any, run_folder: RunFolder, train_pairs: Sequence[EncodedPair], **kwargs: Any) -> None:
        self.run_folder, self._lengths = run_folder, [pair.tokens for pair in train_pairs]
        super().__init__(*args, train_dataset=to_dataset(train_pairs), **kwargs)

    def _set_signature_columns_if_needed(self) -> None:
        """Keep all columns of the dataset: TRL knows none of token types, and would train without them."""
        self._signature_columns = self.train_dataset.column_names

    def _get_train_sampler(self, *_: Any, **__: Any) -> "LengthBucketSampler":
        batch_size = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return LengthBucketSampler(self._lengths, batch_size, self.args.seed)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Skip the epoch if no step is left: transformers checks `max_steps` only after a step."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    def trained_model(self, *, merge_lora: bool) -> PreTrainedModel:
        """Return the trained model, with its LoRA adapter merged if it has one."""
        model = self.accelerator.unwrap_model(self.model)
        return model.merge_and_unload() if merge_lora and is_peft_model(model) else model

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write nothing: TRL would write its card into the folder with every checkpoint."""

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as TRL does, then write the metrics to the run folder."""
        super().log(logs, start_time)
        if "loss" in logs:  # the summary at the end has none
            self.run_folder.append("metrics.jsonl", {"step": self.state.global_step, **nan_to_none(logs)})


class LengthBucketSampler(Sampler[int]):
    """Yields pairs of similar length together, in an order that depends on the seed and the epoch alone."""

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self._lengths, self._batch_size, self._seed, self._epoch = list(lengths), batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, of which a resumed run is told, too."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        return iter(bucketed_order(self._lengths, self._batch_size, f"{self._seed} {self._epoch}"))


def bucketed_order(lengths: Sequence[int], batch_size: int, seed: str) -> list[int]:
    """Return a random order in which each batch holds items of similar length. An incomplete batch comes last."""
    shuffler = random.Random(seed)
    order = shuffler.sample(range(len(lengths)), len(lengths))
    buckets = _chunks(order, batch_size * BUCKET_BATCHES)
    batches = [batch for bucket in buckets for batch in _chunks(sorted(bucket, key=lengths.__getitem__), batch_size)]
    shuffler.shuffle(batches)
    batches.sort(key=len, reverse=True)
    return [index for batch in batches for index in batch]


def _chunks(items: list[int], size: int) -> Iterator[list[int]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def to_dataset(pairs: Sequence[EncodedPair]) -> Dataset:
    """Return tokenized pairs as TRL expects them, with token types where the model reads sentence pairs."""
    columns: dict[str, list[Any]] = {
        "chosen_ids": [pair.chosen.ids for pair in pairs],
        "rejected_ids": [pair.rejected.ids for pair in pairs],
    }
    if any(pair.chosen.types for pair in pairs):
        columns["chosen_types"] = [pair.chosen.types for pair in pairs]
        columns["rejected_types"] = [pair.rejected.types for pair in pairs]
    return Dataset.from_dict(columns)


class TypedCollator(DataCollatorForPreference):  # type: ignore[misc]
    """TRL's collator, with token types where the pairs have them."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Return a batch: the chosen texts, then the rejected ones."""
        batch: dict[str, Any] = super().torch_call(examples)
        if "chosen_types" in examples[0]:
            types = [example[side] for side in ("chosen_types", "rejected_types") for example in examples]
            batch["token_type_ids"] = _padded(types, 0)
        return batch


def inputs_of(texts: Sequence[Encoded], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Return a batch of texts as the model's inputs, (batch, tokens) each."""
    inputs = {
        "input_ids": _padded([text.ids for text in texts], pad_token_id),
        "attention_mask": _padded([[1] * len(text.ids) for text in texts], 0),
    }
    if any(text.types for text in texts):
        inputs["token_type_ids"] = _padded([text.types or [] for text in texts], 0)
    return inputs


def _padded(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    padded: torch.Tensor = pad([torch.tensor(row) for row in rows], padding_value=value, padding_side="right")
    return padded

"""TRL's RLOO and GRPO with a record of each step's completions: their scores, advantages, and the time they took."""

import inspect
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from trl import GRPOTrainer, RLOOTrainer
from trl.trainer.utils import selective_log_softmax_and_entropy

from remote_rewards.distributed import rank
from trainer import checkpoints
from trainer.diversity import mask_unscored
from trainer.judges import ScoredCompletion, local_scores
from trainer.policy import without_adapter
from trainer.prompts import prompt_id_of, user_text
from trainer.recorded_trainer import RecordedTrainer, nan_to_none


class OnlineTrainer(RecordedTrainer):
    """Records the completions that a trainer of TRL's generates. List it before TRL's class."""

    _generated: Sequence[Sequence[int]] = ()
    """The token ids of each completion of the last batch."""

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        started_s = time.monotonic()
        try:
            yield
        finally:
            self._seconds[part] += time.monotonic() - started_s

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        sampler = super()._get_train_sampler(*args, **kwargs)
        if self.shuffle_dataset:
            self.add_callback(checkpoints.EpochSeed(sampler.generator, self.args.seed))
        return sampler

    def _generate(self, *args: Any, **kwargs: Any) -> Any:
        with self._timed("generate"):
            generated = super()._generate(*args, **kwargs)
        self._generated = generated[1]
        return generated

    def _generate_and_score_completions(self, *args: Any, **kwargs: Any) -> Any:
        """Record completions as they are generated: a step may generate several batches, or reuse an earlier one."""
        batch = super()._generate_and_score_completions(*args, **kwargs)
        lengths = self._lengths()
        if rank() == 0:
            self.step_completions += self._last_batch(lengths)
        return batch

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **inputs: Any,
    ) -> Any:
        """Multiply the head with the completions alone; on a CPU, TRL multiplies it with the prompts, too."""
        has_inputs = any(value is not None and value is not False for value in inputs.values())
        if has_inputs or input_ids.device.type != "cpu" or not keeps_logits(self.model, self.args):
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, **inputs
            )
        batches = (torch.split(tensor, batch_size or len(input_ids)) for tensor in (input_ids, attention_mask))
        with self.accelerator.autocast():
            parts = [
                logps_and_entropies(model, ids, mask, logits_to_keep, self.temperature)
                for ids, mask in zip(*batches, strict=True)
            ]
        logps, entropies = (torch.cat(values) for values in zip(*parts, strict=True))
        return logps, entropies if compute_entropy else None, None

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Any:
        with self._timed("score"):
            rewards = super()._calculate_rewards(*args, **kwargs)  # of all ranks, (completions, rewards)
        return mask_unscored(rewards, self.reward_func_names, self.reward_weights.tolist())

    def _lengths(self) -> list[tuple[int, bool]]:
        """Return (number of tokens, whether it was cut off) of the last batch's completions on all ranks."""
        ended_by = {*self.eos_token_ids, self._tokenizer.pad_token_id}
        lengths: list[tuple[int, bool]] = gather_object(
            [(len(ids), ids[-1] not in ended_by) for ids in self._generated]
        )
        return lengths

    def _last_batch(self, lengths: Sequence[tuple[int, bool]]) -> list[dict[str, Any]]:
        """Return the completions of the last batch on all ranks as records of `samples.jsonl`."""
        logs = self._logs  # of all ranks, in their order
        weights = dict(zip(self.reward_func_names, self.reward_weights.tolist(), strict=True))
        rows = zip(logs["prompt"], logs["completion"], logs["advantages"], lengths, strict=True)
        first_group = len(self.step_completions) // self.num_generations  # of this batch, in the step
        records = []
        for index, (prompt, completion, advantage, (tokens, cut_off)) in enumerate(rows):
            scores = nan_to_none({name: values[index] for name, values in logs["rewards"].items()})
            text = completion[0]["content"]
            scored = ScoredCompletion(user_text(prompt), text, tokens, cut_off, scores, prompt_id_of(prompt))
            scored.scores = {**scores, **local_scores(scored, self.judges)}
            place = {"step": self.state.global_step + 1, "group": first_group + index // self.num_generations}
            outcome = {"reward": weighted_sum(scores, weights), "advantage": advantage}
            records.append({**place, **asdict(scored), **outcome})
        return records


class RecordedRLOOTrainer(OnlineTrainer, RLOOTrainer):  # type: ignore[misc]
    """RLOO that writes to a run folder."""


class RecordedGRPOTrainer(OnlineTrainer, GRPOTrainer):  # type: ignore[misc]
    """GRPO that writes to a run folder."""


def keeps_logits(model: Any, args: Any) -> bool:
    """Return whether a model can leave out the logits of prompts, and computes all others as TRL would."""
    takes_number = "logits_to_keep" in inspect.signature(type(without_adapter(model)).forward).parameters
    return takes_number and not getattr(args, "cast_lm_head_to_fp32", False)


def logps_and_entropies(
    model: Any, ids: Tensor, mask: Tensor, tokens: int, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return the log-probabilities of the last `tokens` tokens, and the entropies before them, each (batch, tokens)."""
    logits = model(input_ids=ids, attention_mask=mask, logits_to_keep=tokens + 1, use_cache=False).logits
    logits = logits[:, -tokens - 1 : -1].float()  # (batch, tokens, vocabulary)
    logps, entropies = selective_log_softmax_and_entropy(logits, ids[:, -tokens:], temperature=temperature)
    return logps, entropies


def weighted_sum(scores: Mapping[str, float | None], weights: Mapping[str, float]) -> float | None:
    """Return the reward that TRL sums: None if no reward with a weight has a score."""
    parts = [weight * score for name, weight in weights.items() if weight and (score := scores[name]) is not None]
    return sum(parts) if parts else None

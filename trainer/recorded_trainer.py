"""TRL's trainers with a run folder: a record of each step, checkpoints that can be resumed, the trained policy.

The algorithms are TRL's, unchanged. Added are timers, one line a step in `metrics.jsonl`, the step's completions, if it
generated any, in `samples.jsonl`, and a weight layout for CPUs.
"""

import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from accelerate.utils import is_peft_model
from transformers import AutoModelForCausalLM, PreTrainedModel, Trainer

from remote_rewards.distributed import on_all_ranks, on_main_rank, rank, world_size
from shared.model_store.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, is_adapter
from trainer import checkpoints
from trainer.display import log
from trainer.policy import load_policy, row_major_weights, use_column_major_weights, without_adapter
from trainer.quantization import is_quantized
from trainer.run_folder import RunFolder
from trainer.sharding import whole_weights
from trainer.shared_prefix import compute_each_row


class RecordedTrainer(Trainer):  # type: ignore[misc]
    """Makes one of TRL's trainers write to a run folder. List it before TRL's class."""

    def __init__(self, *args: Any, run_folder: RunFolder, judges: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.run_folder, self.judges = run_folder, list(judges)
        self.step_completions: list[dict[str, Any]] = []
        """The completions of the current step on all ranks, each with its scores and advantage.

        Empty on other ranks than 0, and with an offline algorithm.
        """
        self._seconds: dict[str, float] = defaultdict(float)
        self._step_started_s = time.monotonic()
        self._saved_step: int | None = None
        self._rng = checkpoints.RngSnapshot()
        self.add_callback(self._rng)
        if self.is_sharded:  # a layer is computed once in a pass, and its weights are laid out by their shards
            compute_each_row(without_adapter(self.model))
            return
        for model in filter(None, (self.model, getattr(self, "ref_model", None))):
            use_column_major_weights(model)

    @property
    def is_sharded(self) -> bool:
        """Whether FSDP or DeepSpeed shards the policy over the processes."""
        return bool(self.is_fsdp_enabled or self.is_deepspeed_enabled)

    def train(self, resume_from_checkpoint: Any = None, **kwargs: Any) -> Any:
        """Train as TRL does, from a checkpoint if one is given."""
        self._step_started_s = time.monotonic()
        if resume_from_checkpoint:
            self._resume_from(Path(resume_from_checkpoint))
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def _resume_from(self, checkpoint: Path) -> None:
        """Count this run's own checkpoint as saved, so that it is not overwritten, and schedule its RNG state."""
        step = checkpoints.step_of(checkpoint)
        if checkpoint.resolve() == self.checkpoint_path(step).resolve():
            self._saved_step = step
        if (checkpoint / checkpoints.MID_STEP_MARKER).exists():
            self._rng.pending_restore = partial(self._load_rng_state, str(checkpoint))

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Skip the epoch if no step is left: transformers checks `max_steps` only after a step."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as TRL does, then write the step to the run folder."""
        is_step = "loss" in logs  # the summary at the end has none
        if is_step:
            logs.update({**self._step_timings(), **mean_scores(self.step_completions, self.judges)})
        super().log(logs, start_time)
        if is_step and rank() == 0:
            self.run_folder.append("metrics.jsonl", {"step": self.state.global_step, **nan_to_none(logs)})
            self.run_folder.append("samples.jsonl", *self.step_completions)
        if is_step:
            self.step_completions.clear()

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write nothing: TRL would write its card into the run folder with every checkpoint."""

    def _step_timings(self) -> dict[str, float]:
        """Return the seconds that each part of the step took, and start timing the next step."""
        now_s = time.monotonic()
        step_s, self._step_started_s = now_s - self._step_started_s, now_s
        parts = {f"seconds/{part}": seconds for part, seconds in self._seconds.items()}
        self._seconds.clear()
        return {**parts, "seconds/learn": step_s - sum(parts.values()), "seconds/step": step_s}

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        on_main_rank(lambda: checkpoints.invalidate(self.checkpoint_path()))
        super()._save_checkpoint(*args, **kwargs)
        self._saved_step = self.state.global_step
        on_main_rank(lambda: checkpoints.save_reward_manifest(self.checkpoint_path(), self.run_folder.path))

    def _save_rng_state(self, output_dir: str) -> None:
        """Wait for the states of all ranks: afterwards rank 0 marks the checkpoint as whole and deletes older ones."""
        on_all_ranks(partial(super()._save_rng_state, output_dir))
        on_main_rank(lambda: checkpoints.check_all_saved(Path(output_dir), world_size()))

    def checkpoint_path(self, step: int | None = None) -> Path:
        """Return the checkpoint folder of a step, by default the last completed one."""
        return Path(self.args.output_dir) / f"checkpoint-{self.state.global_step if step is None else step}"

    def save_last_step(self) -> Path | None:
        """Save the last completed step, without traces of a failed next one. None if no step was completed."""
        if self.state.global_step == 0:
            return None
        if self.state.global_step == self._saved_step:
            return self.checkpoint_path()
        on_all_ranks(lambda: None)  # without all of them, the checkpoint would remain incomplete
        self._rng.restore()
        self._save_checkpoint(self.model, trial=None)
        on_main_rank((self.checkpoint_path() / checkpoints.MID_STEP_MARKER).touch)
        return self.checkpoint_path()

    def load_weights(self, checkpoint: Path) -> None:
        """Load the policy's weights from a checkpoint."""
        policy = self.unwrapped_policy()
        if is_peft_model(policy):
            from peft import load_peft_weights, set_peft_model_state_dict

            set_peft_model_state_dict(policy, load_peft_weights(str(checkpoint)))
            return
        weights = AutoModelForCausalLM.from_pretrained(checkpoint, trust_remote_code=False).state_dict()
        policy.load_state_dict(weights)

    def save_policy(self, folder: Path, *, merge_lora: bool) -> PreTrainedModel:
        """Save the policy and its tokenizer, and return the model: after merging an adapter, the merged one.

        Of a sharded policy a whole copy is returned, and of an adapter beside a quantized one, if it is merged.
        """
        policy = self.unwrapped_policy()
        if self.is_sharded or (merge_lora and is_quantized(without_adapter(policy))):
            return self._save_whole(folder, merge_lora=merge_lora)
        if not (merge_lora and is_peft_model(policy)):
            self.save_model(str(folder))
            return policy
        merged = policy.merge_and_unload()
        if rank() == 0:
            with row_major_weights(merged):
                merged.save_pretrained(folder)
            self.processing_class.save_pretrained(folder)
        return merged

    def _save_whole(self, folder: Path, *, merge_lora: bool) -> PreTrainedModel:
        if self.is_fsdp_enabled:
            self.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
        self.save_model(str(folder))
        on_all_ranks(lambda: None)  # until rank 0 has written it
        with whole_weights(self.args):
            whole = load_policy(str(folder))
        if merge_lora and is_quantized(without_adapter(whole)):
            log(f"{folder} holds the adapter: it cannot be merged into a base model whose folder is quantized")
        elif merge_lora and is_adapter(folder):
            on_all_ranks(lambda: None)  # until every rank has read it
            on_main_rank(partial(replace_adapter, whole, folder))
        whole.config._name_or_path = self.unwrapped_policy().config._name_or_path
        return whole.to(self.args.device)

    def unwrapped_policy(self) -> PreTrainedModel:
        """Return the policy without the wrappers of distributed training."""
        return self.accelerator.unwrap_model(self.model)

    def _save(self, *args: Any, **kwargs: Any) -> None:
        with row_major_weights(self.model):
            super()._save(*args, **kwargs)


def replace_adapter(merged: PreTrainedModel, folder: Path) -> None:
    """Save a model in place of the adapter that was merged into it."""
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        (folder / name).unlink()
    merged.save_pretrained(folder)


def mean_scores(completions: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, float]:
    """Return the mean score of each of these judges, under the name of its metric."""
    columns = {name: [record["scores"].get(name) for record in completions] for name in names}
    present = {name: [score for score in scores if score is not None] for name, scores in columns.items()}
    return {f"judges/{name}/mean": fmean(scores) for name, scores in present.items() if scores}


def nan_to_none(values: dict[str, Any]) -> dict[str, Any]:
    """Replace numbers that are not finite by None: TRL stores None as NaN, which JSON does not have."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in values.items()
    }

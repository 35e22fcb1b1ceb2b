"""TRL's RLOO trainer, told to note what happens: where the time of each step goes, and what was said for what.

The algorithm is TRL's, untouched. What is added: timers round generating and scoring, one line a step in
`metrics.jsonl`, the completions made for it with their rewards in `samples.jsonl`, and weights laid out for a CPU.
"""

import math
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from trl import RLOOTrainer

from trainer import checkpoints
from trainer.policy import row_major_weights, use_column_major_weights
from trainer.prompts import user_text
from trainer.run_folder import RunFolder


class RecordedRLOOTrainer(RLOOTrainer):  # type: ignore[misc]
    """RLOO with a run folder."""

    def __init__(self, *args: Any, run_folder: RunFolder, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.run_folder = run_folder
        self._seconds: dict[str, float] = defaultdict(float)
        self._step_started_s = time.monotonic()
        self._unwritten: list[dict[str, Any]] = []
        self._saved_step: int | None = None
        self._rng = checkpoints.RngSnapshot()
        self.add_callback(self._rng)
        for model in filter(None, (self.model, self.ref_model)):
            use_column_major_weights(model)

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        started_s = time.monotonic()
        try:
            yield
        finally:
            self._seconds[part] += time.monotonic() - started_s

    def train(self, resume_from_checkpoint: Any = None, **kwargs: Any) -> Any:
        """Train; the first step's clock starts here."""
        self._step_started_s = time.monotonic()
        if resume_from_checkpoint:
            self._resume_from(Path(resume_from_checkpoint))
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def _resume_from(self, checkpoint: Path) -> None:
        """Take a checkpoint for the last one saved, where it is this run's own: it is not to be written over."""
        step = checkpoints.step_of(checkpoint)
        if checkpoint.resolve() == self.checkpoint(step).resolve():
            self._saved_step = step
        if (checkpoint / checkpoints.MID_STEP_MARKER).exists():
            self._rng.pending_restore = partial(self._load_rng_state, str(checkpoint))

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Take no step from a checkpoint of the last: transformers asks only after a step whether it was the last."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        sampler = super()._get_train_sampler(*args, **kwargs)
        if self.shuffle_dataset:
            self.add_callback(checkpoints.EpochSeed(sampler.generator, self.args.seed))
        return sampler

    def _generate(self, *args: Any, **kwargs: Any) -> Any:
        with self._timed("generate"):
            return super()._generate(*args, **kwargs)

    def _generate_and_score_completions(self, *args: Any, **kwargs: Any) -> Any:
        """Note the replies when they are made: a step may make several batches of them, or use those of one before."""
        made = super()._generate_and_score_completions(*args, **kwargs)
        step = self.state.global_step + 1
        self._unwritten += [{"step": step, **sample} for sample in self.last_completions()]
        return made

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Any:
        with self._timed("score"):
            return super()._calculate_rewards(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as TRL does, then write the step down."""
        is_step = "loss" in logs  # the summary at the end has none
        if is_step:
            logs.update(self._step_timings())
        super().log(logs, start_time)
        if is_step and self.accelerator.is_main_process:
            self.run_folder.append("metrics.jsonl", {"step": self.state.global_step, **finite(logs)})
            self.run_folder.append("samples.jsonl", *self._unwritten)
            self._unwritten.clear()

    def _step_timings(self) -> dict[str, float]:
        """Give the seconds that each part of the step took, and begin the next step."""
        now_s = time.monotonic()
        whole_s, self._step_started_s = now_s - self._step_started_s, now_s
        spent = {f"seconds/{part}": seconds for part, seconds in self._seconds.items()}
        self._seconds.clear()
        return {**spent, "seconds/learn": whole_s - sum(spent.values()), "seconds/step": whole_s}

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        if self.accelerator.is_main_process:
            checkpoints.invalidate(self.checkpoint())
        super()._save_checkpoint(*args, **kwargs)
        self._saved_step = self.state.global_step
        if self.accelerator.is_main_process:
            checkpoints.save_reward_manifest(self.checkpoint(), self.run_folder.path)

    def checkpoint(self, step: int | None = None) -> Path:
        """Name the checkpoint of a step, or of the last finished one."""
        return Path(self.args.output_dir) / f"checkpoint-{self.state.global_step if step is None else step}"

    def save_last_step(self) -> Path | None:
        """Write the last finished step down, as it was before a next one was tried. None where there is no step."""
        if self.state.global_step == 0:
            return None
        if self.state.global_step == self._saved_step:
            return self.checkpoint()
        self._rng.restore()
        self._save_checkpoint(self.model, trial=None)
        if self.accelerator.is_main_process:
            (self.checkpoint() / checkpoints.MID_STEP_MARKER).touch()
        return self.checkpoint()

    def _save(self, *args: Any, **kwargs: Any) -> None:
        with row_major_weights(self.model):
            super()._save(*args, **kwargs)

    def last_completions(self) -> list[dict[str, Any]]:
        """Give what was said last, with its rewards and advantages."""
        kept = self._logs
        rows = zip(kept["prompt"], kept["completion"], kept["advantages"], strict=True)
        return [
            {
                "prompt": user_text(prompt),
                "completion": completion[0]["content"],
                "rewards": finite({name: scores[index] for name, scores in kept["rewards"].items()}),
                "advantage": advantage,
            }
            for index, (prompt, completion, advantage) in enumerate(rows)
        ]


def finite(values: dict[str, Any]) -> dict[str, Any]:
    """Replace NaN, which TRL keeps for None, by None: JSON has no NaN."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in values.items()
    }

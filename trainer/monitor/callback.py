"""The hack monitor as a callback of TRL's trainers: warn, stop the run, or keep the best checkpoint."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from remote_rewards.distributed import on_main_rank
from trainer.monitor.monitor import Alarm, HackMonitor, alarm_text
from trainer.monitor.steps import make_step
from trainer.run_folder import RunFolder

log = logging.getLogger("trainer.monitor")
ON_HACK = ("warn", "stop", "keep_best")
ALARMS = "alarms.jsonl"


class HackMonitorCallback(TrainerCallback):  # type: ignore[misc]
    """Feeds each logged step to the monitor and acts on its alarms.

    `completions` holds the records of the current step when it is logged: `prompt`, `completion`, `reward`, `scores`.
    The values of the signals are added to the step's logs. A stopped run saves a checkpoint at the end of its
    generation batch of `batch_steps` steps, because only there can it be resumed with the same rewards. Of several
    processes, rank 0 observes and decides for all.
    """

    def __init__(
        self,
        monitor: HackMonitor,
        completions: Sequence[Mapping[str, Any]],
        run_folder: RunFolder,
        *,
        on_hack: str = "warn",
        batch_steps: int = 1,
    ) -> None:
        self.monitor, self.on_hack = monitor, on_hack
        self._completions, self._run_folder, self._batch_steps = completions, run_folder, batch_steps
        self.stopped_by: Alarm | None = None
        """The alarm that stopped the run."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Have rank 0 observe the step, and stop the run on all ranks if it says so."""
        if logs is None or "loss" not in logs:  # the summary at the end
            return
        self.stopped_by = on_main_rank(lambda: self._observe(args, state, control, logs), float(args.ddp_timeout))
        if self.stopped_by and state.global_step % self._batch_steps == 0:
            control.should_training_stop = control.should_save = True

    def _observe(self, args: Any, state: Any, control: Any, logs: dict[str, Any]) -> Alarm | None:
        """Observe the step, report its alarms, note the best checkpoint, and return what stops the run."""
        values, alarms = self.monitor.observe(make_step(state.global_step, self._completions, logs))
        logs.update({f"monitor/{name}": value for name, value in values.items()})
        for alarm in alarms:
            log.warning("%s", alarm_text(alarm))
            self._run_folder.append(ALARMS, asdict(alarm))
        if self.on_hack == "keep_best" and control.should_save:
            self._note_best(state, Path(args.output_dir) / f"checkpoint-{state.global_step}")
        return (self.stopped_by or next(iter(alarms), None)) if self.on_hack == "stop" else None

    def _note_best(self, state: Any, checkpoint: Path) -> None:
        """Mark the checkpoint that is about to be saved as the best one, so that transformers does not delete it."""
        quality = self.monitor.quality()
        if quality is None or self.monitor.ringing:
            return
        if state.best_metric is None or quality >= state.best_metric:
            state.best_metric, state.best_model_checkpoint = quality, str(checkpoint)

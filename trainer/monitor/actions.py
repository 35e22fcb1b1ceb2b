"""What a run does by its hack monitor: watch the training, end a stopped run, and keep the best checkpoint."""

from collections.abc import Sequence
from pathlib import Path

from remote_rewards.distributed import on_main_rank, rank
from trainer import checkpoints
from trainer.display import log
from trainer.errors import HackDetected
from trainer.monitor.callback import HackMonitorCallback
from trainer.monitor.monitor import HackMonitor, observe_all
from trainer.recorded_trainer import RecordedTrainer
from trainer.reporting.report import write_report
from trainer.run_folder import RunFolder, read_run
from trainer.settings_checks import generation_batch_steps


def add_monitor(
    trainer: RecordedTrainer, judges: Sequence[str], checkpoint: Path | None, *, on_hack: str
) -> HackMonitorCallback:
    """Add the hack monitor to the trainer; it has observed the steps before the checkpoint to resume from."""
    monitor = HackMonitor(judges)
    if checkpoint is not None and rank() == 0:
        observe_all(monitor, read_run(checkpoint.parent), last_step=checkpoints.step_of(checkpoint))
    callback = HackMonitorCallback(
        monitor,
        trainer.step_completions,
        trainer.run_folder,
        on_hack=on_hack,
        batch_steps=generation_batch_steps(trainer.args),
    )
    trainer.add_callback(callback)
    return callback


def check_not_stopped(monitor: HackMonitorCallback, trainer: RecordedTrainer, folder: RunFolder) -> None:
    """Write the report and raise `HackDetected` if the hack monitor has stopped the run."""
    if monitor.stopped_by is None:
        return
    saved = trainer.save_last_step()
    report = on_main_rank(lambda: write_report(folder.path))
    raise HackDetected(
        f"stopped in step {trainer.state.global_step} of {trainer.state.max_steps}, because "
        f"{monitor.stopped_by.sentence}. Its policy is in {saved}, and the report is {report}; to "
        f"continue, pass --resume_from_checkpoint {saved} --on_hack warn"
    )


def load_best(monitor: HackMonitorCallback, trainer: RecordedTrainer) -> int:
    """Load the best checkpoint by the judges if the run was hacked and keeps it. Return the step of the policy."""
    best = on_main_rank(lambda: choose_best(monitor, trainer))
    if best is None:
        return int(trainer.state.global_step)
    trainer.load_weights(best)
    return checkpoints.step_of(best)


def choose_best(monitor: HackMonitorCallback, trainer: RecordedTrainer) -> Path | None:
    """Return the best checkpoint if the run was hacked and keeps it, or None."""
    if monitor.on_hack != "keep_best" or not monitor.monitor.alarms:
        return None
    best = trainer.state.best_model_checkpoint
    if best is None:
        log(
            "the run was hacked, and none of its checkpoints was saved before that and rated by reward and judges: its "
            "policy is that of the last step"
        )
        return None
    log(f"the run was hacked: its policy is that of {best}, the best by reward and judges")
    return Path(best)

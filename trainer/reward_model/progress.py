"""The progress of a reward model's training: a bar on a terminal, elsewhere a line from time to time."""

import time
from typing import Any

from transformers import TrainerCallback

from trainer.display import LINE_INTERVAL_S, console, log, new_bar


class TrainingProgress(TrainerCallback):  # type: ignore[misc]
    """Shows the steps, their speed and the last logged metrics."""

    def __init__(self) -> None:
        self._bar = new_bar()
        self._status = ""
        self._first_step = 0
        self._started_s = self._printed_s = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the bar."""
        self._started_s = self._printed_s = time.monotonic()
        self._first_step = state.global_step
        self._bar.start()
        self._task = self._bar.add_task("training", total=state.max_steps, completed=state.global_step, status="")

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Show the metrics beside the bar."""
        if logs and "loss" in logs:
            self._status = f"loss {logs['loss']:.3f}  accuracy {logs.get('accuracy', 0):.2f}"

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Advance the bar."""
        self._bar.update(self._task, completed=state.global_step, status=self._status)
        now_s, steps = time.monotonic(), state.global_step - self._first_step
        if not console.is_terminal and (
            now_s - self._printed_s > LINE_INTERVAL_S or state.global_step == state.max_steps
        ):
            self._printed_s, elapsed_s = now_s, now_s - self._started_s
            remaining_s = elapsed_s / max(1, steps) * (state.max_steps - state.global_step)
            speed = f"{steps / elapsed_s:.1f} steps/s  {elapsed_s:.0f} s, {remaining_s:.0f} s left"
            log(f"  step {state.global_step}/{state.max_steps}  {self._status}  {speed}")

    def close(self) -> None:
        """Stop the bar, also after an exception, when `on_train_end` is not called."""
        self._bar.stop()

"""Stop a training, or a sampling, after so many minutes."""

import time
from typing import Any

from transformers import TrainerCallback

from remote_rewards.distributed import on_main_rank


class TimeLimit(TrainerCallback):  # type: ignore[misc]
    """Stops a training at the end of the step in which its time is over. Without minutes there is no limit."""

    def __init__(self, minutes: float | None) -> None:
        self._minutes = minutes
        self._started_s = time.monotonic()

    @property
    def over(self) -> bool:
        """Whether the time is over."""
        return self._minutes is not None and time.monotonic() - self._started_s >= 60 * self._minutes

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start the time."""
        self._started_s = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop the training if its time is over on rank 0: the clocks of several processes differ."""
        if self._minutes is not None and on_main_rank(lambda: self.over, float(args.ddp_timeout)):
            control.should_training_stop = True

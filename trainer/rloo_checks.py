"""Refuse settings of TRL's RLOOConfig that a run of ours cannot have, before anything slow is done."""

import os
from math import ceil, inf, lcm
from pathlib import Path
from typing import Any

from trl import RLOOConfig

from trainer.errors import TrainerError


def check_rloo(rloo: RLOOConfig) -> None:
    """Refuse settings of TRL's RLOOConfig that this trainer does not support."""
    if rloo.eval_strategy != "no" or rloo.eval_on_start:
        raise TrainerError(
            "--eval_strategy and --eval_on_start are not supported, because held-out prompts are evaluated before and "
            "after training: leave them out"
        )
    check_output_dir(Path(rloo.output_dir))
    check_saving(rloo)
    check_logging(rloo)


def check_output_dir(path: Path) -> None:
    """Raise `TrainerError` if the folder cannot be created or written to."""
    nearest = next((folder for folder in (path, *path.parents) if os.path.exists(folder)), path)
    if not (os.path.isdir(nearest) and os.access(nearest, os.W_OK | os.X_OK)):
        raise TrainerError(f"--output_dir {path}: {nearest} is not a writable folder; choose another")


def check_saving(rloo: RLOOConfig) -> None:
    """Refuse checkpoints that cannot be resumed with the same rewards.

    A checkpoint does not hold the unused part of a generation batch. `save_only_model` is refused even if nothing is
    to be saved: a run that its rewards stop saves a checkpoint, too.
    """
    if rloo.save_only_model:
        raise TrainerError("--save_only_model true makes checkpoints that cannot be resumed: leave it out")
    if enum_value(rloo.save_strategy) != "steps":
        return
    batch_steps = generation_batch_steps(rloo)
    max_steps = rloo.max_steps if rloo.max_steps >= 0 else inf  # with epochs, it is known only with the prompts
    save_steps = rloo.save_steps if rloo.save_steps >= 1 or max_steps == inf else ceil(rloo.save_steps * max_steps)
    if batch_steps > 1 and save_steps < max_steps and save_steps % batch_steps:
        raise TrainerError(
            f"--save_steps {rloo.save_steps:g} saves in the middle of a generation batch, which lasts {batch_steps} "
            f"steps, and such a checkpoint cannot be resumed with the same rewards: choose a multiple of {batch_steps}"
        )


def generation_batch_steps(rloo: RLOOConfig) -> int:
    """Return the number of steps after which a new generation batch begins together with a step."""
    batches = lcm(rloo.steps_per_generation * rloo.num_iterations, rloo.gradient_accumulation_steps)
    return batches // int(rloo.gradient_accumulation_steps)


def check_logging(rloo: RLOOConfig) -> None:
    """Refuse to log only some steps: the report needs the metrics and completions of each."""
    if rloo.logging_steps != 1 or enum_value(rloo.logging_strategy) != "steps":
        raise TrainerError(
            "every step is logged, because the report needs it: leave out --logging_steps and --logging_strategy, or "
            "set them to 1 and steps"
        )


def enum_value(choice: Any) -> str:
    """Return the value of one of TRL's choices, which are enumerations or strings."""
    return str(getattr(choice, "value", choice))

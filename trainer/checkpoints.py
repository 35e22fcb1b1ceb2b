"""Go on where a run stopped: with the same rewards, and with the same chance as if it had not stopped."""

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback, TrainerState

from shared.errors import check_revision
from trainer.errors import TrainerError

MANIFEST = "rewards.json"
STATE = "trainer_state.json"
REQUIRED_FILES = ("optimizer.pt", "scheduler.pt", "rng_state.pth")
"""What a run goes on with besides its policy: with `save_only_model` none of it is written."""
MID_STEP_MARKER = "mid_step"
"""Marks a checkpoint of which the chance is that of the next step, whose prompts had been drawn already."""


class RngSnapshot(TrainerCallback):  # type: ignore[misc]
    """Remembers the state of every source of chance at the beginning of each step."""

    def __init__(self) -> None:
        self._states: tuple[Any, ...] | None = None
        self.pending_restore: Callable[[], None] | None = None
        """What puts the chance of a kept checkpoint back: at an epoch's begin, drawing prompts would use it up."""

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Remember."""
        if self.pending_restore is not None:
            self.pending_restore()
            self.pending_restore = None
        devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        self._states = (random.getstate(), np.random.get_state(), torch.get_rng_state(), devices)

    def restore(self) -> None:
        """Let a step that failed not have been tried."""
        if self._states is None:
            return
        own, numpy, cpu, devices = self._states
        random.setstate(own)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if devices:
            torch.cuda.set_rng_state_all(devices)


class EpochSeed(TrainerCallback):  # type: ignore[misc]
    """Draws the order of the prompts by the number of the epoch: a run that is resumed in a later one has the same."""

    def __init__(self, generator: torch.Generator, seed: int) -> None:
        self._generator, self._seed = generator, seed

    def on_epoch_begin(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        """Seed anew."""
        self._generator.manual_seed(self._seed + int(state.epoch or 0))


def save_reward_manifest(checkpoint: Path, run_folder: Path) -> None:
    """Put the rewards' manifest into a checkpoint: a run goes on with the revisions it began with, or not at all."""
    manifest = run_folder / MANIFEST
    if manifest.exists():
        (checkpoint / MANIFEST).write_bytes(manifest.read_bytes())


def invalidate(checkpoint: Path) -> None:
    """Let a checkpoint that is written over not be taken for whole before it is, nor for another kind of one."""
    for name in (STATE, MID_STEP_MARKER):
        (checkpoint / name).unlink(missing_ok=True)


def checkpoint_to_resume(given: str | bool | None, output_dir: Path) -> Path | None:
    """Find the checkpoint to go on from: the one named, or with `true` the latest. Raises `TrainerError`."""
    named = str(given or "false")
    if named.lower() == "false":
        return None
    if named.lower() == "true":
        found = sorted(filter(is_complete, output_dir.glob("checkpoint-*")), key=step_of)
        if not found:
            raise TrainerError(f"{output_dir} has no checkpoint to resume from; train without --resume_from_checkpoint")
        return found[-1]
    if not is_complete(Path(named)):
        raise TrainerError(
            f"{given} is no checkpoint to resume from; those of a run are in {output_dir}/checkpoint-<step>"
        )
    return Path(named)


def is_complete(checkpoint: Path) -> bool:
    """Tell whether a checkpoint has all that a run goes on with, and was written to its end: its state comes last."""
    try:
        return step_of(checkpoint) >= 0 and all((checkpoint / name).exists() for name in REQUIRED_FILES)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def step_of(checkpoint: Path) -> int:
    """Read how many steps a checkpoint has behind it."""
    return int(json.loads((checkpoint / STATE).read_text(encoding="utf-8"))["global_step"])


def check_max_steps(checkpoint: Path, max_steps: int) -> None:
    """Refuse a checkpoint of more steps than are asked for. Without a number of steps, epochs end the run."""
    step = step_of(checkpoint)
    if 0 <= max_steps < step:
        raise TrainerError(
            f"{checkpoint} has {step} steps behind it, more than --max_steps {max_steps}: raise that, or name an "
            f"earlier checkpoint"
        )


def check_same_rewards(checkpoint: Path, now: Mapping[str, Any]) -> None:
    """Refuse to go on where the manifest `now` is not of the rewards that the checkpoint's run began with.

    Raises `TrainerError` where others are trained on, or with other weights, and `RevisionChanged` where any reward
    that both use, to train or to measure, has changed. What an older manifest does not say is not compared.
    """
    noted = (checkpoint / MANIFEST, checkpoint.parent / MANIFEST)  # the run's own, where it died before it noted it
    manifest = next((path for path in noted if path.exists()), None)
    if manifest is None:
        return
    before = json.loads(manifest.read_text(encoding="utf-8"))
    _check_same_weights(checkpoint, _weights(before), _weights(now))
    revisions = _revisions(before)
    for name, revision in _revisions(now).items():
        check_revision(name, revision, revisions.get(name, revision))


def _check_same_weights(checkpoint: Path, before: Mapping[str, float | None], now: Mapping[str, float | None]) -> None:
    unsaid = {name for name, weight in before.items() if weight is None}
    if before.keys() != now.keys() or any(before[name] != now[name] for name in before.keys() - unsaid):
        raise TrainerError(
            f"{checkpoint} was trained on {_listed(before)}, and this run asks for {_listed(now)}: go on with the same "
            f"rewards and weights, or with --allow_revision_change true"
        )


def _weights(manifest: Mapping[str, Any]) -> dict[str, float | None]:
    return {row["name"]: row.get("weight") for row in manifest["rewards"]}


def _revisions(manifest: Mapping[str, Any]) -> dict[str, str]:
    return {**{row["name"]: row["revision"] for row in manifest["rewards"]}, **manifest.get("revisions", {})}


def _listed(weights: Mapping[str, float | None]) -> str:
    return ", ".join(name if weight is None else f"{name} × {weight:g}" for name, weight in weights.items())

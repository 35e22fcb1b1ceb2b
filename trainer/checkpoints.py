"""Resume a run from a checkpoint: with the same rewards, and with the RNG state that it would have had."""

import json
import random
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback, TrainerState

from shared.errors import check_revision
from trainer.errors import TrainerError
from trainer.run_folder import RunFolder

MANIFEST = "rewards.json"
STATE = "trainer_state.json"
RESULT = "after.json"
"""What a run of a policy writes last: a folder without it holds an unfinished run."""
REQUIRED_FILES = ("optimizer.pt", "scheduler.pt")
"""Files that a run needs besides its policy and the RNG states to resume. `save_only_model` writes none of them."""
SHARDED_FILES = (("optimizer.bin", "scheduler.pt"), ("optimizer_0", "scheduler.pt"), ("latest", "zero_to_fp32.py"))
"""Those of FSDP, which writes a whole optimizer or its shards, and of DeepSpeed."""
AUTO = "auto"
"""Resumes from the latest checkpoint if there is one, so that one command line starts a run and continues it."""
MID_STEP_MARKER = "mid_step"
"""Marks a checkpoint saved mid-step: its RNG state is the next step's, after that step's prompts were sampled."""


class RngSnapshot(TrainerCallback):  # type: ignore[misc]
    """Stores the state of every random number generator at the start of each step."""

    def __init__(self) -> None:
        self._states: tuple[Any, ...] | None = None
        self.pending_restore: Callable[[], None] | None = None
        """Called once, at the next step's start: restored any earlier, sampling the prompts would advance the state."""

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Apply a pending restore, then store the states."""
        if self.pending_restore is not None:
            self.pending_restore()
            self.pending_restore = None
        devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        self._states = (random.getstate(), np.random.get_state(), torch.get_rng_state(), devices)

    def restore(self) -> None:
        """Reset every generator to its state at the start of the step, so that a failed step leaves no trace."""
        if self._states is None:
            return
        python, numpy, cpu, devices = self._states
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if devices:
            torch.cuda.set_rng_state_all(devices)


class EpochSeed(TrainerCallback):  # type: ignore[misc]
    """Seeds the sampler by epoch number, so that a resumed run draws the prompts in the same order."""

    def __init__(self, generator: torch.Generator, seed: int) -> None:
        self._generator, self._seed = generator, seed

    def on_epoch_begin(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        """Seed the generator for this epoch."""
        self._generator.manual_seed(self._seed + int(state.epoch or 0))


def save_reward_manifest(checkpoint: Path, run_folder: Path) -> None:
    """Copy the run's reward manifest into a checkpoint, so that resuming can compare the revisions."""
    manifest = run_folder / MANIFEST
    if manifest.exists():
        (checkpoint / MANIFEST).write_bytes(manifest.read_bytes())


def invalidate(checkpoint: Path) -> None:
    """Mark a checkpoint incomplete before it is overwritten: an interrupted write must not pass for a whole one."""
    for name in (STATE, MID_STEP_MARKER, *_rng_states(checkpoint)):
        (checkpoint / name).unlink(missing_ok=True)


def _rng_states(checkpoint: Path) -> set[str]:
    return {path.name for path in checkpoint.glob("rng_state*.pth")}


def processes_of(checkpoint: Path) -> int:
    """Return the number of processes whose RNG states a checkpoint holds, 0 if some are missing."""
    states = _rng_states(checkpoint)
    if states == {"rng_state.pth"}:
        return 1
    return len(states) if states == {f"rng_state_{rank}.pth" for rank in range(len(states))} else 0


def check_processes(checkpoint: Path, processes: int) -> None:
    """Raise `TrainerError` if the checkpoint is of another number of processes, which would draw other completions."""
    if processes_of(checkpoint) != processes:
        raise TrainerError(
            f"{checkpoint} is of a run with {processes_of(checkpoint)} processes, and this one has {processes}: start "
            f"as many, because another number would get other rewards"
        )


def check_all_saved(checkpoint: Path, processes: int) -> None:
    """Raise `TrainerError` if the RNG states of some processes are not in the checkpoint that all have just saved."""
    if processes_of(checkpoint) != processes:
        raise TrainerError(
            f"{checkpoint} lacks the states of other machines: choose an --output_dir on a file system that all share"
        )


def checkpoint_to_resume(requested: str | bool | None, output_dir: Path) -> Path | None:
    """Return the checkpoint named by `requested`, the latest one for `true`, or None for `false`.

    `auto` is the latest one, or None if there is none yet. Raises `TrainerError` if there is no such checkpoint.
    """
    name = str(requested or "false")
    if name.lower() == "false":
        return None
    if name.lower() in ("true", AUTO):
        checkpoint = latest(output_dir)
        if checkpoint is None and name.lower() != AUTO:
            raise TrainerError(
                f"{output_dir} has no checkpoint to resume from; --resume_from_checkpoint {AUTO} begins without one"
            )
        return checkpoint
    if not is_complete(Path(name)):
        raise TrainerError(
            f"{name} is not a complete checkpoint; choose one of {output_dir}/checkpoint-<step>, or pass "
            f"--resume_from_checkpoint true for the latest"
        )
    return Path(name)


def open_run_folder(
    path: Path, checkpoint: Path | None, *, requested: str | bool | None, overwrite: bool, result: str
) -> RunFolder:
    """Create the run folder, or reopen it at the checkpoint's step if the checkpoint is in it.

    With `overwrite` it replaces an earlier run; with `auto`, one without its `result`, the file that is written last:
    that run has died before its first checkpoint. Raises `TrainerError`.
    """
    resumed = checkpoint is not None and checkpoint.resolve().parent == path.resolve()
    if checkpoint is not None and not resumed and checkpoint.resolve().is_relative_to(path.resolve()):
        raise TrainerError(f"{checkpoint} belongs to another run, in a folder of {path}; choose another --output_dir")
    unfinished = str(requested).lower() == AUTO and not (path / result).exists()
    folder = RunFolder.create(path, overwrite=overwrite or unfinished, resume=resumed)
    if checkpoint is not None and resumed:
        folder.truncate_after(step_of(checkpoint))
        set_aside_later(path, step_of(checkpoint))
    return folder


def set_aside_later(path: Path, step: int) -> None:
    """Rename the checkpoints of later steps, which the resumed run replaces: none of them may pass for its latest."""
    for checkpoint in [*path.glob("checkpoint-*")]:
        if is_complete(checkpoint) and step_of(checkpoint) > step:
            replaced = checkpoint.with_name(f"replaced-{checkpoint.name}")
            shutil.rmtree(replaced, ignore_errors=True)
            checkpoint.rename(replaced)


def latest(output_dir: Path) -> Path | None:
    """Return the complete checkpoint of the highest step in a run folder, or None."""
    return max(filter(is_complete, output_dir.glob("checkpoint-*")), key=step_of, default=None)


def is_complete(checkpoint: Path) -> bool:
    """Return whether a checkpoint has every file that resuming needs. The state file is written last."""
    try:
        required = any(_has_all(checkpoint, names) for names in (REQUIRED_FILES, *SHARDED_FILES))
        return required and step_of(checkpoint) >= 0 and processes_of(checkpoint) > 0
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _has_all(checkpoint: Path, names: Iterable[str]) -> bool:
    return all((checkpoint / name).exists() for name in names)


def step_of(checkpoint: Path) -> int:
    """Return the number of steps that a checkpoint has completed."""
    return int(json.loads((checkpoint / STATE).read_text(encoding="utf-8"))["global_step"])


def check_max_steps(checkpoint: Path, max_steps: int) -> None:
    """Raise `TrainerError` if the checkpoint is already past `max_steps`. A negative number sets no limit."""
    step = step_of(checkpoint)
    if 0 <= max_steps < step:
        raise TrainerError(
            f"{checkpoint} has already completed {step} steps, more than --max_steps {max_steps}: raise --max_steps or "
            f"choose an earlier checkpoint"
        )


def check_same_rewards(checkpoint: Path, manifest: Mapping[str, Any]) -> None:
    """Check that a run with this manifest may resume from the checkpoint.

    Raises `TrainerError` if the checkpoint was trained on other rewards or weights, and `RevisionChanged` if a reward
    that both use, for training or evaluation, has another revision. Fields that its manifest lacks are not compared.
    """
    before = _manifest_of(checkpoint)
    if before is None:
        return
    _check_same_weights(checkpoint, _weights(before), _weights(manifest))
    revisions = _revisions(before)
    for name, revision in _revisions(manifest).items():
        check_revision(name, revision, revisions.get(name, revision))


def check_same_completions(checkpoint: Path, manifest: Mapping[str, Any]) -> None:
    """Raise `TrainerError` if a checkpoint was trained on other completions: they would be drawn in another order."""
    before = (_manifest_of(checkpoint) or manifest).get("completions", {})
    if before.get("hash") != manifest.get("completions", {}).get("hash"):
        raise TrainerError(
            f"{checkpoint} was trained on other completions, those of {before.get('file', 'no file')}: resume with the "
            f"same file, algorithm, rewards and --margin or --min_score"
        )


def _manifest_of(checkpoint: Path) -> dict[str, Any] | None:
    candidates = (checkpoint / MANIFEST, checkpoint.parent / MANIFEST)  # the run died before it wrote the first
    path = next((candidate for candidate in candidates if candidate.exists()), None)
    return None if path is None else json.loads(path.read_text(encoding="utf-8"))


def _check_same_weights(checkpoint: Path, before: Mapping[str, float | None], now: Mapping[str, float | None]) -> None:
    changed = any(weight is not None and weight != now.get(name) for name, weight in before.items())
    if changed or before.keys() != now.keys():
        raise TrainerError(
            f"{checkpoint} was trained on {_describe(before)}, and this run asks for {_describe(now)}: resume with the "
            f"same rewards and weights, or pass --allow_revision_change true"
        )


def _weights(manifest: Mapping[str, Any]) -> dict[str, float | None]:
    return {row["name"]: row.get("weight") for row in manifest["rewards"]}


def _revisions(manifest: Mapping[str, Any]) -> dict[str, str]:
    return {**{row["name"]: row["revision"] for row in manifest["rewards"]}, **manifest.get("revisions", {})}


def _describe(weights: Mapping[str, float | None]) -> str:
    return ", ".join(name if weight is None else f"{name} × {weight:g}" for name, weight in weights.items())

import json
import random

import numpy as np
import pytest
import torch

from shared.errors import RevisionChanged
from shared.schemas import RewardInfo
from trainer.checkpoints import (
    MID_STEP_MARKER,
    REQUIRED_FILES,
    SHARDED_FILES,
    RngSnapshot,
    check_all_saved,
    check_max_steps,
    check_processes,
    check_same_completions,
    check_same_rewards,
    checkpoint_to_resume,
    invalidate,
    latest,
    save_reward_manifest,
    step_of,
)
from trainer.errors import TrainerError
from trainer.run_folder import RunFolder


def checkpoint(folder, step, rng_states=None):
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    for name in (*REQUIRED_FILES, *(rng_states or ["rng_state.pth"])):
        (path / name).touch()
    return path


def info(revision, name="x"):
    return RewardInfo(name=name, kind="rule", description="", revision=revision)


def manifest(*infos, weights=None, revisions=None):
    """A reward manifest; without weights and revisions, in the form of an older version."""
    rows = [reward.model_dump() for reward in infos]
    for row, weight in zip(rows, weights or (), strict=False):
        row["weight"] = weight
    return {"rewards": rows, **({"revisions": revisions} if revisions else {})}


def checkpoint_with(tmp_path, rewards):
    path = checkpoint(tmp_path, 5)
    RunFolder(tmp_path).write_json("rewards.json", rewards)
    save_reward_manifest(path, tmp_path)
    return path


@pytest.mark.parametrize("requested", [None, False, "false"])
def test_no_resume_by_default(tmp_path, requested):
    """A run is resumed only if asked."""
    assert checkpoint_to_resume(requested, tmp_path) is None


@pytest.mark.parametrize("requested", [True, "true"])
def test_latest_by_step(tmp_path, requested):
    """The latest checkpoint is the one of the highest step, not the last by name."""
    for step in (5, 100, 20):
        checkpoint(tmp_path, step)
    latest = checkpoint_to_resume(requested, tmp_path)
    assert (latest.name, step_of(latest)) == ("checkpoint-100", 100)


def test_incomplete_is_skipped(tmp_path):
    """A checkpoint that was not written to its end is skipped, and refused by name."""
    checkpoint(tmp_path, 5)
    (tmp_path / "checkpoint-10").mkdir()
    assert checkpoint_to_resume("true", tmp_path).name == "checkpoint-5"
    with pytest.raises(TrainerError, match="is not a complete checkpoint"):
        checkpoint_to_resume(str(tmp_path / "checkpoint-10"), tmp_path)


@pytest.mark.parametrize("state", ["", "{", "[]", "{}", '{"global_step": null}'])
def test_truncated_state_is_skipped(tmp_path, state):
    """A checkpoint whose state file is cut short is skipped."""
    checkpoint(tmp_path, 5)
    (checkpoint(tmp_path, 10) / "trainer_state.json").write_text(state)
    assert checkpoint_to_resume("true", tmp_path).name == "checkpoint-5"


@pytest.mark.parametrize("name", [*REQUIRED_FILES, "rng_state.pth"])
def test_required_files(tmp_path, name):
    """A checkpoint without the optimizer's, scheduler's or RNG state is skipped, and refused by name."""
    checkpoint(tmp_path, 5)
    (checkpoint(tmp_path, 10) / name).unlink()
    assert checkpoint_to_resume("true", tmp_path).name == "checkpoint-5"
    with pytest.raises(TrainerError, match="is not a complete checkpoint"):
        checkpoint_to_resume(str(tmp_path / "checkpoint-10"), tmp_path)


@pytest.mark.parametrize("names", SHARDED_FILES)
def test_checkpoint_of_sharded_policy(tmp_path, names):
    """A checkpoint of FSDP or DeepSpeed is complete with its own files."""
    path = checkpoint(tmp_path, 5)
    for name in REQUIRED_FILES:
        (path / name).unlink()
    assert latest(tmp_path) is None
    for name in names:
        (path / name).touch()
    assert checkpoint_to_resume("true", tmp_path) == path


@pytest.mark.parametrize(
    ("requested", "message"), [("true", "has no checkpoint"), ("runs/nowhere", "is not a complete checkpoint")]
)
def test_missing_checkpoint(tmp_path, requested, message):
    """A checkpoint that does not exist is an error."""
    with pytest.raises(TrainerError, match=message):
        checkpoint_to_resume(requested, tmp_path)


def test_invalidate_before_overwriting(tmp_path):
    """A checkpoint about to be overwritten loses its state file and its mid-step marker."""
    (checkpoint(tmp_path, 5) / MID_STEP_MARKER).touch()
    invalidate(tmp_path / "checkpoint-5")
    invalidate(tmp_path / "checkpoint-6")  # does not exist yet
    assert {path.name for path in (tmp_path / "checkpoint-5").iterdir()} == set(REQUIRED_FILES)


def test_auto_resume(tmp_path):
    """`auto` resumes from the latest checkpoint if there is one."""
    assert checkpoint_to_resume("auto", tmp_path) is None
    path = checkpoint(tmp_path, 5)
    assert checkpoint_to_resume("auto", tmp_path) == path


RANKS = ["rng_state_0.pth", "rng_state_1.pth", "rng_state_2.pth"]


@pytest.mark.parametrize("missing", RANKS[:2])
def test_state_of_every_rank(tmp_path, missing):
    """A checkpoint without the RNG state of one rank is incomplete."""
    path = checkpoint(tmp_path, 5, RANKS)
    assert checkpoint_to_resume("true", tmp_path) == path
    (path / missing).unlink()
    assert checkpoint_to_resume("auto", tmp_path) is None


@pytest.mark.parametrize(("rng_states", "processes"), [(RANKS, 3), (["rng_state.pth"], 1)])
def test_other_number_of_processes(tmp_path, rng_states, processes):
    """A run resumes with as many processes as it began with."""
    path = checkpoint(tmp_path, 5, rng_states)
    check_processes(path, processes)
    with pytest.raises(TrainerError, match=f"a run with {processes} processes, and this one has 2: start as many"):
        check_processes(path, 2)


def test_folder_is_shared(tmp_path):
    """A checkpoint that lacks the states of another machine is an error that names the cause."""
    path = checkpoint(tmp_path, 5, RANKS[:2])
    check_all_saved(path, 2)
    with pytest.raises(TrainerError, match="on a file system that all share"):
        check_all_saved(path, 3)


def test_max_steps(tmp_path):
    """A checkpoint past `--max_steps` is refused; a negative number sets no limit."""
    path = checkpoint(tmp_path, 5)
    for enough in (5, 6, -1):
        check_max_steps(path, enough)
    with pytest.raises(TrainerError, match="already completed 5 steps, more than --max_steps 4"):
        check_max_steps(path, 4)


def test_other_revision(tmp_path):
    """A checkpoint is not resumed with another revision of a reward that it was trained on."""
    path = checkpoint_with(tmp_path, manifest(info("old")))
    check_same_rewards(path, manifest(info("old")))
    with pytest.raises(RevisionChanged, match="began with old and is now new"):
        check_same_rewards(path, manifest(info("new")))


def test_manifest_of_the_run(tmp_path):
    """A checkpoint without a manifest of its own is compared with that of its run."""
    path = checkpoint(tmp_path, 5)
    RunFolder(tmp_path).write_json("rewards.json", manifest(info("old")))
    with pytest.raises(RevisionChanged, match="began with old and is now new"):
        check_same_rewards(path, manifest(info("new")))


def test_other_evaluation_revision(tmp_path):
    """A checkpoint is not resumed with another revision of a reward that is only evaluated with."""
    path = checkpoint_with(tmp_path, manifest(info("1"), weights=[1.0], revisions={"x": "1", "measure": "old"}))
    check_same_rewards(path, manifest(info("1"), weights=[1.0], revisions={"x": "1", "measure": "old", "more": "1"}))
    with pytest.raises(RevisionChanged, match="'measure' changed during the run: it began with old and is now new"):
        check_same_rewards(path, manifest(info("1"), weights=[1.0], revisions={"x": "1", "measure": "new"}))


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (manifest(info("1", "y"), weights=[1.0]), "was trained on x × 1, and this run asks for y × 1"),
        (manifest(info("1"), weights=[2.0]), "was trained on x × 1, and this run asks for x × 2"),
        (manifest(info("1"), info("1", "y"), weights=[1.0, 0.5]), "asks for x × 1, y × 0.5"),
    ],
)
def test_other_weights(tmp_path, now, message):
    """A checkpoint is not resumed with other rewards or other weights."""
    path = checkpoint_with(tmp_path, manifest(info("1"), weights=[1.0]))
    with pytest.raises(TrainerError, match=message):
        check_same_rewards(path, now)


def test_older_manifest(tmp_path):
    """Weights and revisions that a manifest does not have are not compared."""
    path = checkpoint_with(tmp_path, manifest(info("1")))
    check_same_rewards(path, manifest(info("1"), weights=[2.0], revisions={"x": "1", "measure": "1"}))


def test_rng_snapshot():
    """After a failed step, every random number generator is back at the step's start."""

    def draw():
        return random.random(), float(np.random.random()), float(torch.rand(1))

    snapshot = RngSnapshot()
    snapshot.on_step_begin()
    first = draw()
    snapshot.restore()
    assert draw() == first


def test_same_completions(tmp_path):
    """A checkpoint is resumed with the completions that it was trained on, or with none if it had none."""
    described = {"completions": {"hash": "1", "file": "a.jsonl"}}
    path = checkpoint_with(tmp_path, {**manifest(info("1")), **described})
    check_same_completions(path, described)
    for other in ({}, {"completions": {"hash": "2"}}):
        with pytest.raises(TrainerError, match=r"was trained on other completions, those of a\.jsonl: resume with"):
            check_same_completions(path, other)
    path = checkpoint_with(tmp_path / "online", manifest(info("1")))
    check_same_completions(path, {})
    with pytest.raises(TrainerError, match="those of no file"):
        check_same_completions(path, described)

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
    RngSnapshot,
    check_max_steps,
    check_same_rewards,
    checkpoint_to_resume,
    invalidate,
    save_reward_manifest,
    step_of,
)
from trainer.errors import TrainerError
from trainer.run_folder import RunFolder, read_run


def checkpoint(folder, step):
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    for name in REQUIRED_FILES:
        (path / name).touch()
    return path


def info(revision, name="x"):
    return RewardInfo(name=name, kind="rule", description="", revision=revision)


def manifest(*infos, weights=None, revisions=None):
    """What a run notes of its rewards; without weights and revisions as older ones did."""
    rows = [reward.model_dump() for reward in infos]
    for row, weight in zip(rows, weights or (), strict=False):
        row["weight"] = weight
    return {"rewards": rows, **({"revisions": revisions} if revisions else {})}


def noted(tmp_path, told):
    path = checkpoint(tmp_path, 5)
    RunFolder(tmp_path).write_json("rewards.json", told)
    save_reward_manifest(path, tmp_path)
    return path


@pytest.mark.parametrize("given", [None, False, "false"])
def test_a_run_is_not_resumed_unless_asked(tmp_path, given):
    assert checkpoint_to_resume(given, tmp_path) is None


@pytest.mark.parametrize("given", [True, "true"])
def test_the_latest_checkpoint_is_the_one_of_the_highest_step(tmp_path, given):
    for step in (5, 100, 20):
        checkpoint(tmp_path, step)
    found = checkpoint_to_resume(given, tmp_path)
    assert (found.name, step_of(found)) == ("checkpoint-100", 100)


def test_a_checkpoint_that_was_not_written_to_its_end_is_passed_over(tmp_path):
    checkpoint(tmp_path, 5)
    (tmp_path / "checkpoint-10").mkdir()
    assert checkpoint_to_resume("true", tmp_path).name == "checkpoint-5"
    with pytest.raises(TrainerError, match="is no checkpoint"):
        checkpoint_to_resume(str(tmp_path / "checkpoint-10"), tmp_path)


@pytest.mark.parametrize("state", ["", "{", "[]", "{}", '{"global_step": null}'])
def test_nor_is_one_taken_whose_state_was_cut_off(tmp_path, state):
    checkpoint(tmp_path, 5)
    (checkpoint(tmp_path, 10) / "trainer_state.json").write_text(state)
    assert checkpoint_to_resume("true", tmp_path).name == "checkpoint-5"


@pytest.mark.parametrize("name", REQUIRED_FILES)
def test_nor_is_one_taken_that_a_run_cannot_go_on_from_as_it_was(tmp_path, name):
    checkpoint(tmp_path, 5)
    (checkpoint(tmp_path, 10) / name).unlink()
    assert checkpoint_to_resume("true", tmp_path).name == "checkpoint-5"
    with pytest.raises(TrainerError, match="is no checkpoint to resume from"):
        checkpoint_to_resume(str(tmp_path / "checkpoint-10"), tmp_path)


def test_one_that_is_written_over_is_neither_whole_nor_kept_until_it_is(tmp_path):
    (checkpoint(tmp_path, 5) / MID_STEP_MARKER).touch()
    invalidate(tmp_path / "checkpoint-5")
    invalidate(tmp_path / "checkpoint-6")  # there is none yet
    assert {path.name for path in (tmp_path / "checkpoint-5").iterdir()} == set(REQUIRED_FILES)


def test_a_checkpoint_without_rewards_is_held_to_those_of_its_run(tmp_path):
    path = checkpoint(tmp_path, 5)
    RunFolder(tmp_path).write_json("rewards.json", manifest(info("old")))
    with pytest.raises(RevisionChanged, match="began with old and is now new"):
        check_same_rewards(path, manifest(info("new")))


@pytest.mark.parametrize(("given", "says"), [("true", "has no checkpoint"), ("runs/nowhere", "is no checkpoint")])
def test_a_checkpoint_that_is_not_there_is_told_of(tmp_path, given, says):
    with pytest.raises(TrainerError, match=says):
        checkpoint_to_resume(given, tmp_path)


def test_a_checkpoint_of_more_steps_than_are_asked_for_is_refused(tmp_path):
    path = checkpoint(tmp_path, 5)
    for enough in (5, 6, -1):
        check_max_steps(path, enough)
    with pytest.raises(TrainerError, match="has 5 steps behind it, more than --max_steps 4"):
        check_max_steps(path, 4)


def test_a_checkpoint_is_not_resumed_with_other_rewards(tmp_path):
    path = checkpoint(tmp_path, 5)
    RunFolder(tmp_path).write_json("rewards.json", manifest(info("old")))
    save_reward_manifest(path, tmp_path)
    check_same_rewards(path, manifest(info("old")))
    with pytest.raises(RevisionChanged, match="began with old and is now new"):
        check_same_rewards(path, manifest(info("new")))


def test_a_checkpoint_is_not_resumed_where_what_it_is_measured_with_has_changed(tmp_path):
    path = noted(tmp_path, manifest(info("1"), weights=[1.0], revisions={"x": "1", "measure": "old"}))
    check_same_rewards(path, manifest(info("1"), weights=[1.0], revisions={"x": "1", "measure": "old", "more": "1"}))
    with pytest.raises(RevisionChanged, match="'measure' changed during the run: it began with old and is now new"):
        check_same_rewards(path, manifest(info("1"), weights=[1.0], revisions={"x": "1", "measure": "new"}))


@pytest.mark.parametrize(
    ("now", "says"),
    [
        (manifest(info("1", "y"), weights=[1.0]), "was trained on x × 1, and this run asks for y × 1"),
        (manifest(info("1"), weights=[2.0]), "was trained on x × 1, and this run asks for x × 2"),
        (manifest(info("1"), info("1", "y"), weights=[1.0, 0.5]), "asks for x × 1, y × 0.5"),
    ],
)
def test_a_checkpoint_is_not_resumed_with_another_sum_of_rewards(tmp_path, now, says):
    path = noted(tmp_path, manifest(info("1"), weights=[1.0]))
    with pytest.raises(TrainerError, match=says):
        check_same_rewards(path, now)


def test_a_checkpoint_that_notes_neither_weights_nor_what_it_is_measured_with_is_resumed(tmp_path):
    path = noted(tmp_path, manifest(info("1")))
    check_same_rewards(path, manifest(info("1"), weights=[2.0], revisions={"x": "1", "measure": "1"}))


def test_what_was_noted_after_the_checkpoint_is_forgotten(tmp_path):
    folder = RunFolder(tmp_path)
    folder.append("metrics.jsonl", *({"step": step} for step in range(1, 8)))
    (tmp_path / "metrics.jsonl").open("a").write('{"step": 8, "rew')  # cut short by a crash
    folder.truncate_after(5)
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [
        1,
        2,
        3,
        4,
        5,
    ]


def test_what_was_noted_is_kept_whatever_characters_it_holds_and_wherever_it_was_cut_off(tmp_path):
    folder = RunFolder(tmp_path)
    texts = ["one\u2028two", "a\x85b", "日本語"]
    folder.append("samples.jsonl", *({"step": 1, "completion": text} for text in texts))
    with (tmp_path / "samples.jsonl").open("rb+") as file:
        file.truncate((tmp_path / "samples.jsonl").stat().st_size - 4)
    for _ in range(2):
        assert [sample["completion"] for sample in read_run(tmp_path).samples] == texts[:2]
        folder.truncate_after(1)


def test_a_step_that_failed_takes_no_chance_away():
    def draw():
        return random.random(), float(np.random.random()), float(torch.rand(1))

    state = RngSnapshot()
    state.on_step_begin()
    first = draw()
    state.restore()
    assert draw() == first

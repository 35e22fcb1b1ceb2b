import json
import random

import numpy as np
import pytest
import torch

from shared import RevisionChanged, RewardInfo
from trainer.errors import TrainerError
from trainer.resuming import Randomness, checkpoint_to_resume, note_rewards, refuse_other_rewards, step_of
from trainer.run_folder import RunFolder


def checkpoint(folder, step):
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    return path


def info(revision):
    return RewardInfo(name="x", kind="rule", description="", revision=revision)


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


def test_a_checkpoint_without_rewards_is_held_to_those_of_its_run(tmp_path):
    path = checkpoint(tmp_path, 5)
    RunFolder(tmp_path).write_json("rewards.json", {"rewards": [info("old").model_dump()]})
    with pytest.raises(RevisionChanged, match="began with old and is now new"):
        refuse_other_rewards(path, [info("new")])


@pytest.mark.parametrize(("given", "says"), [("true", "has no checkpoint"), ("runs/nowhere", "is no checkpoint")])
def test_a_checkpoint_that_is_not_there_is_told_of(tmp_path, given, says):
    with pytest.raises(TrainerError, match=says):
        checkpoint_to_resume(given, tmp_path)


def test_a_checkpoint_is_not_resumed_with_other_rewards(tmp_path):
    path = checkpoint(tmp_path, 5)
    RunFolder(tmp_path).write_json("rewards.json", {"rewards": [info("old").model_dump()]})
    note_rewards(path, tmp_path)
    refuse_other_rewards(path, [info("old")])
    with pytest.raises(RevisionChanged, match="began with old and is now new"):
        refuse_other_rewards(path, [info("new")])


def test_what_was_noted_after_the_checkpoint_is_forgotten(tmp_path):
    folder = RunFolder(tmp_path)
    folder.append("metrics.jsonl", *({"step": step} for step in range(1, 8)))
    (tmp_path / "metrics.jsonl").open("a").write('{"step": 8, "rew')  # cut short by a crash
    folder.cut(5)
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [
        1,
        2,
        3,
        4,
        5,
    ]


def test_a_step_that_failed_takes_no_chance_away():
    def draw():
        return random.random(), float(np.random.random()), float(torch.rand(1))

    state = Randomness()
    state.on_step_begin()
    first = draw()
    state.put_back()
    assert draw() == first

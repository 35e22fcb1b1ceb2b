"""Runs of a small random policy with each algorithm, against a real service."""

import pytest

from tests.short_runs import recorded, save_policy, short_run
from trainer.algorithms import CONFIG_CLASSES
from trainer.config import parse
from trainer.run_folder import read_run
from trainer.train import train

pytestmark = pytest.mark.slow
RESUMED = {"max_steps": 4, "num_iterations": 2, "save_strategy": "steps", "save_steps": 2, "learning_rate": 0.1}


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """The folder of a small random chat model."""
    return save_policy(tmp_path_factory.mktemp("policy"))


def test_same_rewards(policy, rules_url, tmp_path):
    """While nothing is learned, each algorithm has the same completions with the same rewards."""
    flags = {"learning_rate": 0.0, "judges": "vader"}
    runs = [
        train(*parse(short_run(policy, rules_url, tmp_path / name, algorithm=name, **flags))) for name in CONFIG_CLASSES
    ]
    first, second = map(recorded, runs)
    assert first == second
    assert [step for step, *_ in first] == [1, 1, 2, 2]
    assert None not in {reward for *_, reward in first}
    assert all(read_run(run).after["decodings"]["greedy"]["samples"] for run in runs)


def test_grpo_resumes(policy, rules_url, tmp_path):
    """A GRPO run resumed from a checkpoint has the completions and rewards of one that was not interrupted."""
    whole, stopped = (short_run(policy, rules_url, tmp_path / name, algorithm="grpo", **RESUMED) for name in "ab")
    train(*parse(whole))
    train(*parse([*stopped, "--max_steps", "2"]))
    train(*parse([*stopped, "--resume_from_checkpoint", "true"]))
    assert recorded(tmp_path / "b") == recorded(tmp_path / "a")
    assert [step for step, *_ in recorded(tmp_path / "a")] == [1, 1, 3, 3]

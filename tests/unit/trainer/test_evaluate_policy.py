import json
from types import SimpleNamespace

import pytest
import torch

from trainer import evaluate_policy
from trainer.cli import main
from trainer.config import parse
from trainer.errors import TrainerError
from trainer.evaluate_policy import evaluate, evaluate_all
from trainer.evaluation_options import policy_labels
from trainer.evaluator import Evaluator
from trainer.rewards import ConnectedRewards
from trainer.run_folder import read_run

RESULT = {"step": 0, "policy": "fake", "decodings": {}}


@pytest.fixture
def run(monkeypatch, tmp_path):
    """The arguments of an evaluation without real rewards and policy."""
    rewards = ConnectedRewards([SimpleNamespace(name="banana", client=None, watch_only=False)], [], {"banana": "1"})
    monkeypatch.setattr(evaluate_policy, "connect_rewards", lambda _: rewards)
    monkeypatch.setattr(evaluate_policy, "load_policy_and_tokenizer", lambda *_: (None, torch.nn.Linear(1, 1)))
    monkeypatch.setattr(Evaluator, "evaluate", lambda *_, **__: RESULT)
    return parse(["--config", "banana", "--output_dir", str(tmp_path / "run"), "--use_cpu", "true"])


def linear(bias):
    """Return a model of one weight, whose bias this is."""
    model = torch.nn.Linear(1, 1)
    model.bias.data.fill_(bias)
    return model


def test_evaluate(run, tmp_path):
    """The evaluation is written to before.json, beside the configuration."""
    assert evaluate(*run) == tmp_path / "run"
    assert json.loads((tmp_path / "run" / "before.json").read_text()) == RESULT
    assert (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.parametrize(("weight", "watched"), [("0", {"banana"}), ("1", set())])
def test_unweighted_reward(weight, watched, run, tmp_path, monkeypatch):
    """The failures of a reward of weight 0 stop an evaluation as little as a training."""
    evaluators = []
    monkeypatch.setattr(Evaluator, "evaluate", lambda self, *_, **__: evaluators.append(self) or RESULT)
    evaluate(*parse(["--config", "banana", "--output_dir", str(tmp_path / "run"), "--reward_weights", weight]))
    assert evaluators[0].watched == watched


def test_several_policies_and_seeds(run, tmp_path, capsys):
    """Each policy is evaluated with each seed in a folder of its own, and the seeds are compared together."""
    argv = ["--config", "banana", "--output_dir", str(tmp_path / "all"), "--use_cpu", "true"]
    folders = evaluate_all([*argv, "--policies", "embedded:smollm2", "runs/mine/policy", "--seeds", "1", "2"])
    names = ["embedded_smollm2-seed1", "embedded_smollm2-seed2", "mine-seed1", "mine-seed2"]
    assert [folder.name for folder in folders] == names
    assert all((folder / "before.json").exists() for folder in folders)
    assert "2 policies compared" in (tmp_path / "all" / "comparison.html").read_text()


def test_shares(run, tmp_path, monkeypatch):
    """Each share of a policy's difference from `--kl_from` is evaluated by itself, whatever the recipe has."""
    bias = []
    monkeypatch.setattr(evaluate_policy, "load_policy_and_tokenizer", lambda *_: (None, linear(3.0)))
    monkeypatch.setattr(evaluate_policy, "load_base", lambda *_: linear(1.0))
    monkeypatch.setattr(Evaluator, "evaluate", lambda _, policy, **__: bias.append(policy.bias.item()) or RESULT)
    argv = ["--config", "banana", "--output_dir", str(tmp_path / "all"), "--use_cpu", "true", "--interpolation", "0.3"]
    folders = evaluate_all([*argv, "--shares", "0.25", "1", "--kl_from", "embedded:smollm2", "--eval_kl", "false"])
    assert bias == [1.5, 3.0]
    assert [folder.name for folder in folders] == [
        "embedded_smollm2-share0.25-seed42",
        "embedded_smollm2-share1-seed42",
    ]
    assert [read_run(folder).config["interpolation"] for folder in folders] == [0.25, 1.0]
    assert "2 policies compared" in (tmp_path / "all" / "comparison.html").read_text()


def test_help(capsys):
    """The help names the options that are split off before the settings are parsed."""
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    shown = capsys.readouterr().out
    assert all(option in shown for option in ("--policies", "--shares", "--seeds", "--kl_from"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--shares", "0.5"], "--shares needs --kl_from"),
        (["--shares", "0", "--kl_from", "embedded:smollm2"], "--shares 0: choose a number above 0, up to 1"),
    ],
)
def test_wrong_shares(flags, message):
    """Shares need the policy at their other end, and lie between the two."""
    with pytest.raises(TrainerError, match=message):
        evaluate_all(["--config", "banana", *flags])


@pytest.mark.parametrize(
    ("policies", "labels"),
    [
        (["embedded:smollm2", "runs/banana/policy", "org/m"], ["embedded_smollm2", "banana", "m"]),
        (
            ["a/checkpoint-10", "b/checkpoint-10", "b/checkpoint-20"],
            ["a_checkpoint-10", "b_checkpoint-10", "checkpoint-20"],
        ),
        (["org1/m", "org2/m", "/x/org2/m", "a_m"], ["org1_m", "org2_m", "x_org2_m", "a_m"]),
    ],
)
def test_policy_labels(policies, labels):
    """A policy is named by its folder or its run, and by as much of its path as sets it apart from the others."""
    assert policy_labels(policies) == dict(zip(policies, labels, strict=True))


def test_policy_is_named_twice(run, tmp_path):
    """Two policies that would have one folder are an error before the first is evaluated."""
    argv = ["--config", "banana", "--output_dir", str(tmp_path / "all"), "--use_cpu", "true"]
    with pytest.raises(TrainerError, match=r"--policies: runs/a and \./runs/a would be evaluated into the same folder"):
        evaluate_all([*argv, "--policies", "runs/b", "runs/a", "./runs/a"])
    assert not (tmp_path / "all").exists()

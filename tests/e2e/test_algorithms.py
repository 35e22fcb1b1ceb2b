"""Runs of a small random policy with each algorithm, against a real service."""

import pytest
import torch

from tests.short_runs import recorded, short_run
from trainer.config import parse
from trainer.errors import TrainerError
from trainer.evaluate_policy import evaluate
from trainer.policy import load_policy
from trainer.run_folder import read_run
from trainer.train import train

pytestmark = pytest.mark.slow
RESUMED = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "learning_rate": 0.1}


def test_same_rewards(policy, rules_url, tmp_path):
    """While nothing is learned, each online algorithm has the same completions with the same rewards."""
    flags = {"learning_rate": 0.0, "judges": "vader"}
    runs = [
        train(*parse(short_run(policy, rules_url, tmp_path / name, algorithm=name, **flags)))
        for name in ("rloo", "grpo")
    ]
    first, second = map(recorded, runs)
    assert first == second
    assert [step for step, *_ in first] == [1, 1, 2, 2]
    assert None not in {reward for *_, reward in first}
    assert all(read_run(run).after["decodings"]["greedy"]["samples"] for run in runs)
    assert [read_run(run).after["kl"] for run in runs] == pytest.approx([0.0, 0.0], abs=1e-5)


@pytest.mark.parametrize(
    "settings",
    [{"algorithm": "grpo", "num_iterations": 2}, {"use_peft": "true", "lora_dropout": 0.1, "eval_kl": "false"}],
)
def test_resumes(policy, rules_url, tmp_path, settings):
    """A run resumed from a checkpoint has the completions and rewards of one that was not interrupted."""
    whole, stopped = (short_run(policy, rules_url, tmp_path / name, **RESUMED, **settings) for name in "ab")
    train(*parse(whole))
    train(*parse([*stopped, "--max_steps", "2"]))
    train(*parse([*stopped, "--resume_from_checkpoint", "true"]))
    assert recorded(tmp_path / "b") == recorded(tmp_path / "a")
    assert recorded(tmp_path / "a")[-1][0] >= 3
    assert ("kl" in read_run(tmp_path / "a").after) is ("eval_kl" not in settings)


@pytest.mark.parametrize(("merge", "file"), [("true", "model.safetensors"), ("false", "adapter_model.safetensors")])
def test_lora(policy, rules_url, tmp_path, merge, file):
    """A LoRA run saves the merged model or the adapter; evaluated later, either is the policy that was trained."""
    lora = {"use_peft": "true", "lora_r": 4, "learning_rate": 0.1, "merge_lora": merge}
    folder = train(*parse(short_run(policy, rules_url, tmp_path / "run", **lora)))
    assert [path.name for path in (folder / "policy").glob("*.safetensors")] == [file]
    later = evaluate(*parse(short_run(str(folder / "policy"), rules_url, tmp_path / "later", kl_from=policy)))
    before, after, again = read_run(folder).before, read_run(folder).after, read_run(later).before
    assert again["decodings"] == after["decodings"] != before["decodings"]
    assert again["kl"] == pytest.approx(after["kl"])
    assert after["kl"] > 0.01
    assert "kl" not in before


def test_kl_is_measured_if_asked_for(policy, rules_url, tmp_path):
    """`evaluate` measures the KL from `--kl_from`, unless `--eval_kl` is false."""
    for name, eval_kl in (("with", "true"), ("without", "false")):
        flags = short_run(policy, rules_url, tmp_path / name, kl_from=policy, eval_kl=eval_kl)
        assert ("kl" in read_run(evaluate(*parse(flags))).before) is (name == "with")


def test_diversity_is_a_reward_of_the_run(policy, rules_url, tmp_path):
    """A run's manifest names diversity with its weight, and its checkpoints are resumed with no other weight."""
    flags = short_run(policy, rules_url, tmp_path / "run", diversity_weight=2.0, **RESUMED)
    folder = train(*parse([*flags, "--max_steps", "2"]))
    assert {row["name"]: row["weight"] for row in read_run(folder).rewards["rewards"]} == {"banana": 1, "diversity": 2}
    with pytest.raises(TrainerError, match="was trained on banana × 1, diversity × 2, and this run asks for"):
        train(*parse([*flags, "--diversity_weight", "0", "--resume_from_checkpoint", "true"]))


@pytest.mark.parametrize("settings", [{}, {"use_peft": "true", "lora_r": 4}])
def test_interpolation(policy, rules_url, tmp_path, settings):
    """The saved policy keeps a share of what training changed, and is the one that was evaluated."""
    runs = [
        train(
            *parse(short_run(policy, rules_url, tmp_path / share, interpolation=share, learning_rate=0.1, **settings))
        )
        for share in ("1.0", "0.75")
    ]
    before, whole, near = (load_policy(str(folder)) for folder in (policy, *(run / "policy" for run in runs)))
    for name, weight in near.named_parameters():
        start, end = before.get_parameter(name), whole.get_parameter(name)
        assert torch.allclose(weight, start + 0.75 * (end - start), atol=1e-5)
    assert recorded(runs[0]) == recorded(runs[1])
    assert 0 < read_run(runs[1]).after["kl"] < read_run(runs[0]).after["kl"]
    later = evaluate(*parse(short_run(str(runs[1] / "policy"), rules_url, tmp_path / "later")))
    assert read_run(later).before["decodings"] == read_run(runs[1]).after["decodings"]


def test_adapter_is_not_trained(policy, rules_url, tmp_path):
    """Training from a folder with an adapter is refused before anything is written."""
    (tmp_path / "policy").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / "policy" / name).touch()
    with pytest.raises(TrainerError, match="holds a LoRA adapter, which can be evaluated, not trained further"):
        train(*parse(short_run(str(tmp_path / "policy"), rules_url, tmp_path / "run")))
    assert not (tmp_path / "run").exists()

"""Runs of a small random policy on completions in a file, against a real service."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from shared.errors import RevisionChanged
from tests.short_runs import offline_run, short_run
from tests.stand_in_hub import TOKEN
from trainer.config import parse
from trainer.errors import TrainerError
from trainer.policy import load_policy
from trainer.run_folder import read_run
from trainer.sampling import sample
from trainer.train import train

pytestmark = pytest.mark.slow
PROMPTS, COMPLETIONS = 6, 4


@pytest.fixture(scope="module")
def completions(policy, rules_url, tmp_path_factory):
    """The file of completions that the policy has been sampled for, with their scores."""
    folder = tmp_path_factory.mktemp("completions")
    rows = [{"prompt": f"Question {number}?"} for number in range(PROMPTS)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"num_generations": COMPLETIONS, "per_device_train_batch_size": COMPLETIONS}
    settings |= {"prompts": folder / "prompts.jsonl", "max_completion_length": 12}
    return sample(*parse(short_run(policy, rules_url, folder / "samples", **settings)))


def weights(folder):
    return load_file(folder / "policy" / "model.safetensors")


@pytest.mark.parametrize("algorithm", ["dpo", "sft"])
def test_offline_run(policy, rules_url, completions, tmp_path, algorithm, capsys):
    """DPO and SFT evaluate before and after, record what chose their completions, and resume to the same policy."""
    flags = {"algorithm": algorithm, "save_strategy": "steps", "save_steps": 2, "lr_scheduler_type": "constant"}
    whole, stopped = (offline_run(policy, rules_url, tmp_path / name, completions, **flags) for name in "ab")
    folder = train(*parse(whole))
    run = read_run(folder)
    assert [line["step"] for line in run.metrics] == [1, 2, 3, 4]
    assert all(line["loss"] > 0 for line in run.metrics)
    assert run.samples == []
    described = run.rewards["completions"]
    assert (described["chosen_by"], described["rows"]) == ("banana", PROMPTS)
    assert described["revision"] == run.rewards["revisions"]["banana"]
    for side in (run.before, run.after):
        assert {*side["decodings"]["greedy"]["samples"][0]["scores"]} == {"banana", "vader"}
    assert run.before["decodings"] != run.after["decodings"]
    assert "the hack monitor watches none" in " ".join(capsys.readouterr().err.split())
    assert "No completions were recorded in training" in (folder / "report.html").read_text()

    train(*parse([*stopped, "--max_steps", "2"]))
    train(*parse([*stopped, "--resume_from_checkpoint", "true"]))
    assert [line["step"] for line in read_run(tmp_path / "b").metrics] == [1, 2, 3, 4]
    first, second = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all((first[name] == second[name]).all() for name in first)


def test_other_completions(policy, rules_url, completions, tmp_path):
    """Another revision than the file's stops a run before it begins; other completions cannot be resumed with."""
    flags = {"algorithm": "sft", "save_strategy": "steps", "save_steps": 1, "max_steps": 1, "eval_limit": 1}
    run = offline_run(policy, rules_url, tmp_path / "run", completions, **flags)
    train(*parse(run))
    records = [json.loads(line) for line in completions.read_text().splitlines()]
    highest = str(max(each["scores"]["banana"] for each in records))
    with pytest.raises(TrainerError, match="was trained on other completions, those of "):
        train(*parse([*run, "--max_steps", "2", "--min_score", highest, "--resume_from_checkpoint", "true"]))
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps({**each, "revisions": {"banana": "rule:1"}}) + "\n" for each in records))
    with pytest.raises(RevisionChanged, match="were scored by revision rule:1 of 'banana', and the service has rule:"):
        train(*parse(offline_run(policy, rules_url, tmp_path / "third", other, **flags)))
    assert not (tmp_path / "third").exists()


def test_written_pairs(policy, rules_url, tmp_path, hub):
    """A policy trained with DPO and LoRA on pairs that someone has written is pushed; no reward has a weight."""
    pairs = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"Question {n}?", "chosen": f"Sure {n}.", "rejected": "No."} for n in range(4)]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = {"algorithm": "dpo", "use_peft": "true", "lora_r": 4, "max_steps": 2, "eval_limit": 1}
    flags |= {"push_to_hub": "true", "hub_token": TOKEN}
    run = read_run(train(*parse(offline_run(policy, rules_url, tmp_path / "run", pairs, **flags))))
    assert [reward["weight"] for reward in run.rewards["rewards"]] == [0.0]
    assert run.rewards["completions"]["chosen_by"] is None
    ((name, files),) = hub.files.items()
    assert (name, hub.commits) == ("somebody/run", ["run: 2 steps"])
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= files.keys()
    assert b"chosen by no reward" in files["README.md"]
    assert policy.encode() not in b"".join(files.values()), "a path of this machine was pushed"
    assert TOKEN not in (tmp_path / "run" / "config.yaml").read_text()


def test_pushed_adapter(policy, rules_url, tmp_path, hub, monkeypatch):
    """A pushed adapter names its base model by hub id and revision, no path of this machine, and is loaded again."""
    resolved = []

    def resolve(name):
        resolved.append(name)
        return Path(policy if name == "somebody/tiny@v1" else name)

    monkeypatch.setattr("trainer.policy.resolve", resolve)
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"prompt": "Hi", "completion": "Sure."}\n' * 2)
    flags = {"algorithm": "sft", "use_peft": "true", "lora_r": 4, "max_steps": 1, "eval_limit": 1}
    flags |= {"push_to_hub": "true", "hub_token": TOKEN, "merge_lora": "false"}
    folder = train(*parse(offline_run("somebody/tiny@v1", rules_url, tmp_path / "run", pairs, **flags)))
    ((_, files),) = hub.files.items()
    config = json.loads(files["adapter_config.json"])
    assert (config["base_model_name_or_path"], config["revision"]) == ("somebody/tiny", "v1")
    assert policy.encode() not in b"".join(files.values()), "a path of this machine was pushed"
    resolved.clear()
    load_policy(str(folder / "policy"))
    assert resolved == [str(folder / "policy"), "somebody/tiny@v1"]

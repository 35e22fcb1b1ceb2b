"""Real trainings of the embedded policy against a real service."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import pytest
import yaml
from datasets import Dataset
from trl import RLOOConfig, RLOOTrainer

from remote_rewards import remote_reward
from tests.plain_rules import banana
from trainer.cli import main
from trainer.policy import load_policy, load_tokenizer

pytestmark = pytest.mark.slow
STEPS, BATCH = 6, 16
LEARNING = f"""--algorithm rloo --rewards banana --judges strict_success --reward_weights 1.0 --max_steps {STEPS}
--num_generations 8 --per_device_train_batch_size {BATCH} --gradient_accumulation_steps 1 --max_completion_length 32
--temperature 1.0 --learning_rate 1e-4 --lr_scheduler_type constant --warmup_steps 0 --beta 0.001 --frozen_layers 0
--seed 42 --eval_limit 16 --eval_decodings sampled --eval_batch 16"""
"""What the outcome depends on, whatever the recipe sets."""
SYSTEM_PROMPT = "Reply in one short sentence that starts with Sure: and ends with banana."


def command(name, *args, url, cwd=None):
    env = {**os.environ, "REWARD_URL": url}
    words = [str(Path(sys.executable).parent / name), *args]
    return subprocess.run(words, env=env, cwd=cwd, capture_output=True, text=True, check=False)


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_banana(rules_url, tmp_path):
    """A policy learns the banana form from a remote reward."""
    folder = tmp_path / "run"
    flags = ["--output_dir", str(folder), *LEARNING.split(), "--system_prompt", SYSTEM_PROMPT, "--few_shot", ""]
    done = command("reward-trainer", "train", "--config", "banana", *flags, url=rules_url)
    assert done.returncode == 0, done.stderr
    rewards = [line["reward"] for line in metrics(folder)]
    # the mean of three steps varies by about 0.1; a policy that does not learn stays near -0.55
    assert fmean(rewards[-3:]) > fmean(rewards[:3]) + 0.7, rewards
    names = {
        "config.yaml",
        "metrics.jsonl",
        "samples.jsonl",
        "rewards.json",
        "before.json",
        "after.json",
        "report.html",
    }
    assert names <= {path.name for path in folder.iterdir()}
    manifest = json.loads((folder / "rewards.json").read_text())
    assert manifest["rewards"][0]["revision"].startswith("rule:")
    assert len((folder / "samples.jsonl").read_text().splitlines()) == STEPS * BATCH


def rloo(reward, policy, folder):
    """Train for twenty short steps, large enough that each score changes what is said next; return their rewards."""
    args = RLOOConfig(
        output_dir=str(folder),
        max_steps=20,
        per_device_train_batch_size=4,
        num_generations=4,
        max_completion_length=6,
        learning_rate=1e-2,
        beta=0.0,
        bf16=False,
        gradient_checkpointing=False,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        seed=7,
    )
    trainer = RLOOTrainer(
        model=load_policy(policy),
        reward_funcs=reward,
        args=args,
        train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": f"Say {n}."}]} for n in range(30)]),
        processing_class=load_tokenizer(policy),
    )
    trainer.train()
    return [line["reward"] for line in trainer.state.log_history if "reward" in line]


def test_remote_equals_local(rules_url, policy, tmp_path):
    """Twenty steps are the same with a local reward and with the same reward behind HTTP."""

    def local(completions, **_):
        return [sum(banana(completion[0]["content"]).values()) for completion in completions]

    here = rloo(local, policy, tmp_path / "here")
    there = rloo(remote_reward(rules_url, "banana"), policy, tmp_path / "there")
    assert len(here) == 20
    assert len(set(here)) > 3  # a series that varies, so that equality means something
    assert here == there


def test_stock_trl_needs_no_code(models_url, policy, tmp_path):
    """`trl rloo` trains on a remote reward, also where the user's own modules have the names of our packages."""
    (tmp_path / "trainer").mkdir()
    for name in ("trainer.py", "trainer/__init__.py", "reward_service.py"):
        (tmp_path / name).write_text("raise RuntimeError('this module of the user is not to be imported')")
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"Tell me about item {n}."}) + "\n" for n in range(8)))
    config = {
        "model_name_or_path": policy,
        "datasets": [{"path": "json", "data_files": str(prompts)}],
        "output_dir": str(tmp_path / "out"),
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "num_generations": 2,
        "max_completion_length": 8,
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
    }
    (tmp_path / "rloo.yaml").write_text(yaml.safe_dump(config))
    done = command(
        *("trl", "rloo", "--config", "rloo.yaml", "--reward_funcs", "remote_rewards.sentiment"),
        url=models_url,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "rewards/sentiment/mean" in done.stdout + done.stderr


def test_no_service(tmp_path, capsys):
    """Without a service, training stops with one message before it creates the run folder."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    url, folder = f"http://127.0.0.1:{port}", tmp_path / "run"
    flags = ["--reward_url", url, "--output_dir", str(folder), "--wait_for_rewards_s", "1"]
    assert main(["train", "--config", "banana", *flags]) == 1
    output = capsys.readouterr().err
    assert f"connection refused at {url}" in output
    assert "Traceback" not in output
    assert not folder.exists()

"""Interrupted runs: the service is killed or reloaded, the trainer is killed, the rewards of one rank fail."""

import itertools
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import faults
from tests.conftest import RULES, wait_for
from tests.plain_rules import BANANA
from tests.soak.reloads import reload_service
from tests.soak.supervisor import Supervisor
from trainer.cli import main

pytestmark = pytest.mark.slow
LONG = "REMOTE_REWARDS_SOAK" in os.environ
STEPS = 40 if LONG else 9
KILL_SERVICE_AT, RELOAD_AT = ((3, 8, 13, 18, 23), (8, 18)) if LONG else ((2, 4, 6), (4,))
KILL_TRAINER_AT, SAVE_STEPS, RESUMED_STEPS = (7, 5, 20) if LONG else (4, 3, 6)
SMALL = {
    "beta": "0.0",
    "per_device_train_batch_size": "4",
    "num_generations": "4",
    "max_completion_length": "48",  # so that a step takes long enough to be interrupted
    "learning_rate": "1e-2",
    "frozen_layers": "0",
    "rewards": "banana",
    "judges": "strict_success",
    "lr_scheduler_type": "constant",  # whose rate does not depend on the number of steps
    "warmup_steps": "0",
    "eval_limit": "2",
    "eval_decodings": "greedy",
    "eval_max_new_tokens": "4",
    "reward_timeout_s": "60",
}


@pytest.fixture(scope="module", autouse=True)
def small_policy(policy):
    """Train a small random policy in all runs: what interrupts them does not depend on its size."""
    SMALL["model_name_or_path"] = policy


REWARDS = "rewards: {{banana: {banana}, scaled: {{kind: composite, parts: {{banana: {part}}}}}}}"


def arguments(url, folder, steps, **settings):
    flags = {**SMALL, "reward_url": url, "max_steps": steps, "output_dir": folder, **settings}
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    return ["train", "--config", "banana", *words]


def run_trainer(*args, code=0, **settings):
    """Run in this process, which has loaded the libraries; what is interrupted has a process of its own."""
    assert main(arguments(*args, **settings)) == code


def start_trainer(*args, **settings):
    command = [str(Path(sys.executable).parent / "reward-trainer"), *arguments(*args, **settings)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def output_of(process, code=0):
    output, _ = process.communicate(timeout=600)
    assert process.returncode == code, output[-4000:]
    return output


def rewards(folder):
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [json.loads(line) for line in lines if line.endswith("}")]
    return {row["step"]: row["reward"] for row in rows}


def completions(folder):
    lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    return [(line["step"], line["prompt"], line["completion"]) for line in lines]


def wait_for_step(folder, step):
    wait_for(lambda: step in rewards(folder), timeout_s=300)


@pytest.fixture(scope="module")
def uninterrupted(rules_url, tmp_path_factory):
    """The reward of each step of a run without interruptions."""
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    run_trainer(rules_url, folder, STEPS)
    series = rewards(folder)
    assert len(series) == STEPS
    assert len(set(series.values())) > 5  # a series that varies, so that equality means something
    return series


def test_service_killed_and_reloaded(uninterrupted, tmp_path):
    """A run whose service is killed and reloaded gets the same rewards."""
    with Supervisor(RULES) as service:
        process = start_trainer(service.url, tmp_path / "run", STEPS)
        for step in KILL_SERVICE_AT:
            wait_for_step(tmp_path / "run", step)
            service.kill()
            service.wait_until_ready()
            if step in RELOAD_AT:
                reload_service(service)
        output_of(process)
    assert rewards(tmp_path / "run") == uninterrupted


def test_trainer_killed(rules_url, uninterrupted, tmp_path):
    """A run resumed after its trainer was killed continues as if it had not been."""
    folder, saving = tmp_path / "run", {"save_strategy": "steps", "save_steps": SAVE_STEPS}
    process = start_trainer(rules_url, folder, RESUMED_STEPS, **saving)
    wait_for_step(folder, KILL_TRAINER_AT)
    process.kill()
    process.wait()
    run_trainer(rules_url, folder, RESUMED_STEPS, **saving, resume_from_checkpoint="true")
    assert rewards(folder) == {step: reward for step, reward in uninterrupted.items() if step <= RESUMED_STEPS}
    steps = [step for step, *_ in completions(folder)]
    assert steps == [step for step in range(1, RESUMED_STEPS + 1) for _ in range(4)]


def test_other_revision(tmp_path, capsys):
    """Another revision stops the run with a checkpoint, from which it resumes only with the first revision."""
    folder, config = tmp_path / "run", tmp_path / "rewards.yaml"
    config.write_text(REWARDS.format(banana=BANANA, part="{weight: 1.0}"))
    with Supervisor(config) as service:
        process = start_trainer(service.url, folder, 40, rewards="scaled")
        wait_for_step(folder, 2)
        config.write_text(REWARDS.format(banana=BANANA, part="{weight: 2.0}"))
        reload_service(service)
        output = output_of(process, 1)
        assert "RevisionChanged: the reward 'scaled' changed during the run" in output
        assert len(set(re.findall(r"composite:\w+", output))) == 2
        step = max(rewards(folder))
        assert f"stopped in step {step + 1} of 40" in output
        assert f"checkpoint-{step}" in output
        run_trainer(service.url, folder, 40, rewards="scaled", resume_from_checkpoint="true", code=1)
        assert "RevisionChanged" in capsys.readouterr().err
        config.write_text(REWARDS.format(banana=BANANA, part="{weight: 1.0}"))
        reload_service(service)
        run_trainer(service.url, folder, step + 2, rewards="scaled", resume_from_checkpoint="true")
    assert sorted(rewards(folder)) == list(range(1, step + 3))


PROMPTS = ["What is a cloud?", "How do I boil an egg?", "Why is the sky blue?"]
EPOCH_STEPS, MAX_STEPS = len(PROMPTS), 5


def test_stopped_between_epochs(rules_url, tmp_path, capsys):
    """A run stopped by its rewards as an epoch began, and then resumed, continues as if it had not been."""
    prompts, whole, stopped = (tmp_path / name for name in ("few.jsonl", "whole", "stopped"))
    prompts.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
    settings, down = {"prompts": prompts, "reward_timeout_s": "3"}, [True]

    def down_after_the_epoch():
        while True:
            yield faults.status(503) if down[0] and EPOCH_STEPS in rewards(stopped) else None

    with faults.fault_proxy(rules_url, schedule=down_after_the_epoch()) as (url, _):
        run_trainer(url, whole, MAX_STEPS, **settings)
        run_trainer(url, stopped, MAX_STEPS, **settings, code=1)
        output = capsys.readouterr().err
        assert "resume with --resume_from_checkpoint" in output
        assert f"checkpoint-{EPOCH_STEPS}" in output
        down[0] = False
        run_trainer(url, stopped, MAX_STEPS, **settings, resume_from_checkpoint="true")
    assert sorted({prompt for step, prompt, _ in completions(whole) if step <= EPOCH_STEPS}) == sorted(PROMPTS)
    assert completions(stopped) == completions(whole)


RANK = """
import sys
from datasets import Dataset
from trl import RLOOConfig, RLOOTrainer
from remote_rewards import remote_reward

args = RLOOConfig(output_dir=sys.argv[2], max_steps=5, per_device_train_batch_size=2, num_generations=2,
                  max_completion_length=4, beta=0.0, bf16=False, gradient_checkpointing=False, logging_steps=1,
                  report_to="none", save_strategy="no", use_cpu=True, disable_tqdm=True)
rows = [{"prompt": [{"role": "user", "content": f"Say {n}."}]} for n in range(8)]
RLOOTrainer(model=sys.argv[3], args=args, reward_funcs=remote_reward(sys.argv[1], "banana"),
            train_dataset=Dataset.from_list(rows)).train()
"""


def start_rank(number, port, url, folder):
    env = {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    env |= {"MASTER_PORT": str(port), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    return subprocess.Popen(
        [sys.executable, "-c", RANK, url, str(folder), SMALL["model_name_or_path"]],
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_all_ranks_stop(rules_url, tmp_path):
    """If the rewards of one rank fail, all ranks stop within a minute, with the same message."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with faults.fault_proxy(rules_url, schedule=itertools.repeat(faults.status(500))) as (broken, proxy):
        urls = [rules_url, broken]
        processes = [start_rank(number, port, url, tmp_path / str(number)) for number, url in enumerate(urls)]
        wait_for(lambda: proxy.scored > 0, timeout_s=180)
        started_s = time.monotonic()
        outputs = [process.communicate(timeout=180)[0] for process in processes]
    assert time.monotonic() - started_s < 60
    assert all(process.returncode != 0 for process in processes)
    pattern = r"RankFailed: (rank 1 has no rewards, so all ranks stop: .*)"
    messages = {re.search(pattern, output).group(1) for output in outputs}
    assert len(messages) == 1, outputs
    assert "responded with 500" in messages.pop()

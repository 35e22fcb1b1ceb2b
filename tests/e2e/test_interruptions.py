"""Runs that are disturbed: the service dies and is reloaded, the trainer dies, a process of several has no rewards."""

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
from tests.soak.reloads import reload_service
from tests.soak.supervisor import Supervisor

pytestmark = pytest.mark.slow
LONG = "REMOTE_REWARDS_SOAK" in os.environ
STEPS = 40 if LONG else 9
KILLS, RELOADS = ((3, 8, 13, 18, 23), (8, 18)) if LONG else ((2, 4, 6), (4,))
DIES, SAVES, RESUMED = (7, 5, 20) if LONG else (4, 3, 6)
SMALL = {
    "beta": "0.0",
    "per_device_train_batch_size": "4",
    "num_generations": "4",
    "max_completion_length": "6",
    "frozen_layers": "28",
    "eval_limit": "2",
    "eval_decodings": "greedy",
    "eval_max_new_tokens": "4",
    "reward_timeout_s": "60",
}
REWARDS = (
    "rewards: {{banana: {{kind: rule, function: banana}}, scaled: {{kind: composite, parts: {{banana: {part}}}}}}}"
)


def trainer(url, folder, steps, **settings):
    flags = {**SMALL, "max_steps": str(steps), "output_dir": str(folder), **settings}
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    command = [str(Path(sys.executable).parent / "reward-trainer"), "train", "--config", "banana", *words]
    env = {**os.environ, "REWARD_URL": url}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finished(process, code=0):
    said, _ = process.communicate(timeout=600)
    assert process.returncode == code, said[-4000:]
    return said


def rewards(folder):
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [json.loads(line) for line in lines if line.endswith("}")]
    return {row["step"]: row["reward"] for row in rows}


def reaches(folder, step):
    wait_for(lambda: step in rewards(folder), timeout_s=300)


@pytest.fixture(scope="module")
def undisturbed(rules_url, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    finished(trainer(rules_url, folder, STEPS))
    series = rewards(folder)
    assert len(series) == STEPS
    assert len(set(series.values())) > 5  # a series that moves, so that equality says something
    return series


def test_a_run_whose_service_dies_and_is_reloaded_gives_the_same_rewards(undisturbed, tmp_path):
    with Supervisor(RULES) as service:
        process = trainer(service.url, tmp_path / "run", STEPS)
        for step in KILLS:
            reaches(tmp_path / "run", step)
            service.kill()
            service.wait_until_ready()
            if step in RELOADS:
                reload_service(service)
        finished(process)
    assert rewards(tmp_path / "run") == undisturbed


def test_a_run_whose_trainer_is_killed_goes_on_as_if_it_had_not_been(rules_url, undisturbed, tmp_path):
    folder, saving = tmp_path / "run", {"save_strategy": "steps", "save_steps": SAVES}
    process = trainer(rules_url, folder, RESUMED, **saving)
    reaches(folder, DIES)
    process.kill()
    process.wait()
    finished(trainer(rules_url, folder, RESUMED, **saving, resume_from_checkpoint="true"))
    assert rewards(folder) == {step: reward for step, reward in undisturbed.items() if step <= RESUMED}
    samples = [json.loads(line)["step"] for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert samples == [step for step in range(1, RESUMED + 1) for _ in range(4)]


def test_another_revision_stops_the_run_leaves_a_checkpoint_and_is_refused_at_its_resumption(tmp_path):
    folder, config = tmp_path / "run", tmp_path / "rewards.yaml"
    config.write_text(REWARDS.format(part="{weight: 1.0}"))
    with Supervisor(config) as service:
        process = trainer(service.url, folder, 40, rewards="scaled")
        reaches(folder, 2)
        config.write_text(REWARDS.format(part="{weight: 2.0}"))
        reload_service(service)
        said = finished(process, 1)
        assert "RevisionChanged: the reward 'scaled' changed during the run" in said
        assert len(set(re.findall(r"composite:\w+", said))) == 2
        step = max(rewards(folder))
        assert f"stopped in step {step + 1} of 40" in said
        assert f"checkpoint-{step}" in said
        resumed = finished(trainer(service.url, folder, 40, rewards="scaled", resume_from_checkpoint="true"), 1)
        assert "RevisionChanged" in resumed
        config.write_text(REWARDS.format(part="{weight: 1.0}"))
        reload_service(service)
        finished(trainer(service.url, folder, step + 2, rewards="scaled", resume_from_checkpoint="true"))
    assert sorted(rewards(folder)) == list(range(1, step + 3))


EPOCH, STEPS_OF_TWO = 3, 5
QUESTIONS = ["What is a cloud?", "How do I boil an egg?", "Why is the sky blue?"]


def asked(folder):
    lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    return [(line["step"], line["prompt"], line["completion"]) for line in lines]


def test_a_run_that_its_rewards_have_stopped_as_an_epoch_began_goes_on_as_if_they_had_not(rules_url, tmp_path):
    prompts, whole, stopped = (tmp_path / name for name in ("few.jsonl", "whole", "stopped"))
    prompts.write_text("".join(json.dumps({"prompt": question}) + "\n" for question in QUESTIONS))
    few, down = {"prompts": prompts, "reward_timeout_s": "3"}, [True]

    def down_after_the_epoch():
        while True:
            yield faults.status(503) if down[0] and EPOCH in rewards(stopped) else None

    with faults.spoiling(rules_url, every=down_after_the_epoch()) as (url, _):
        finished(trainer(url, whole, STEPS_OF_TWO, **few))
        said = finished(trainer(url, stopped, STEPS_OF_TWO, **few), 1)
        assert "go on with --resume_from_checkpoint" in said
        assert f"checkpoint-{EPOCH}" in said
        down[0] = False
        finished(trainer(url, stopped, STEPS_OF_TWO, **few, resume_from_checkpoint="true"))
    assert sorted({prompt for step, prompt, _ in asked(whole) if step <= EPOCH}) == sorted(QUESTIONS)
    assert asked(stopped) == asked(whole)


RANK = """
import sys
from datasets import Dataset
from trl import RLOOConfig, RLOOTrainer
from remote_rewards import remote_reward
from trainer.policy import load_policy, load_tokenizer

args = RLOOConfig(output_dir=sys.argv[2], max_steps=5, per_device_train_batch_size=2, num_generations=2,
                  max_completion_length=4, beta=0.0, bf16=False, gradient_checkpointing=False, logging_steps=1,
                  report_to="none", save_strategy="no", use_cpu=True, disable_tqdm=True)
rows = [{"prompt": [{"role": "user", "content": f"Say {n}."}]} for n in range(8)]
RLOOTrainer(model=load_policy("embedded:smollm2", frozen_layers=28), args=args,
            reward_funcs=remote_reward(sys.argv[1], "banana"), train_dataset=Dataset.from_list(rows),
            processing_class=load_tokenizer("embedded:smollm2")).train()
"""


def rank(number, port, url, folder):
    env = {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    env |= {"MASTER_PORT": str(port), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    return subprocess.Popen(
        [sys.executable, "-c", RANK, url, str(folder)],
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_where_the_rewards_of_one_process_are_broken_all_stop_within_a_minute_and_say_the_same(rules_url, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as meeting:
        port = meeting.getsockname()[1]
    with faults.spoiling(rules_url, every=itertools.repeat(faults.status(500))) as (broken, proxy):
        urls = [rules_url, broken]
        processes = [rank(number, port, url, tmp_path / str(number)) for number, url in enumerate(urls)]
        wait_for(lambda: proxy.scored > 0, timeout_s=180)
        began_s = time.monotonic()
        said = [process.communicate(timeout=180)[0] for process in processes]
    assert time.monotonic() - began_s < 60
    assert all(process.returncode != 0 for process in processes)
    told = {re.search(r"RankFailed: (rank 1 has no rewards, so all ranks stop: .*)", text).group(1) for text in said}
    assert len(told) == 1, said
    assert "answered 500" in told.pop()

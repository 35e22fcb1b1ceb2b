"""Runs of two processes under torchrun, with a small random policy and a real service."""

import importlib.util
import itertools
import json
import re
from statistics import fmean

import psutil
import pytest

from tests import faults
from tests.conftest import wait_for
from tests.short_runs import output_of, recorded, short_run, torchrun
from trainer.config import parse
from trainer.errors import TrainerError
from trainer.evaluate_policy import evaluate
from trainer.run_folder import read_run
from trainer.train import train

pytestmark = pytest.mark.slow
STEPS = 5
SETTINGS = {"max_steps": STEPS, "learning_rate": 0.1, "save_strategy": "steps", "save_steps": 2, "eval_batch": 1}
SETTINGS |= {"judges": "vader", "resume_from_checkpoint": "auto", "diversity_weight": 2.0}


def kill_rank(launcher, rank):
    children = psutil.Process(launcher.pid).children(recursive=True)
    next(child for child in children if child.environ().get("RANK") == str(rank)).kill()


@pytest.fixture(scope="module")
def whole(policy, rules_url, tmp_path_factory):
    """The folder and the output of a run of two processes that is not interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, output_of(torchrun(short_run(policy, rules_url, folder, **SETTINGS)))


def test_folder_of_two_processes(whole, policy, rules_url, tmp_path):
    """A run of two processes writes what a run of one writes, with the completions of both."""
    folder, output = whole
    alone = train(*parse(short_run(policy, rules_url, tmp_path / "run", **SETTINGS)))
    assert {path.name for path in folder.iterdir()} == {path.name for path in alone.iterdir()}
    run, other = read_run(folder), read_run(alone)
    assert [step["step"] for step in run.metrics] == list(range(1, STEPS + 1))
    assert [line.keys() for line in run.metrics] == [line.keys() for line in other.metrics]
    assert len(run.samples) == 2 * len(other.samples) == 4 * STEPS
    for number, line in enumerate(run.metrics, start=1):
        samples = [sample for sample in run.samples if sample["step"] == number]
        assert fmean(sample["tokens"] for sample in samples) == pytest.approx(line["completions/mean_length"])
        assert fmean(sample["cut_off"] for sample in samples) == pytest.approx(line["completions/clipped_ratio"])
        assert fmean(sample["reward"] for sample in samples) == pytest.approx(line["reward"])
    assert output.count(f"report: {folder / 'report.html'}") == 1


def test_evaluation_of_two_processes(whole, rules_url, tmp_path):
    """An evaluation has the same completions and scores, however many processes share it."""
    folder, _ = whole
    settings = {"eval_batch": 1, "judges": "vader"}
    alone = evaluate(*parse(short_run(str(folder / "policy"), rules_url, tmp_path / "alone", **settings)))
    assert read_run(alone).before["decodings"] == read_run(folder).after["decodings"]


def test_killed_rank(whole, policy, rules_url, tmp_path):
    """If a rank is killed, the others stop and say so; started again, the run gets the rewards it would have had."""
    folder, down = tmp_path / "run", [True]
    schedule = (
        faults.status(503) if down[0] and len(read_run(folder).metrics) >= STEPS - 2 else None
        for _ in itertools.count()
    )
    with faults.fault_proxy(rules_url, schedule=schedule) as (url, _):
        launcher = torchrun(short_run(policy, url, folder, **SETTINGS), "--max-restarts", "1")
        wait_for(lambda: len(read_run(folder).metrics) >= STEPS - 2, timeout_s=180)
        kill_rank(launcher, 1)
        down[0] = False
        output = output_of(launcher)
    assert re.search("rank 0: (RankFailed: another rank|ended by SIGTERM)", output)
    assert recorded(folder) == recorded(whole[0])
    assert len({completion for _, _, completion, _ in recorded(folder)}) > 2 * STEPS  # so that equality means something
    with pytest.raises(TrainerError, match="a run with 2 processes, and this one has 1: start as many"):
        train(*parse(short_run(policy, rules_url, folder, **SETTINGS)))


ZERO = {"zero_optimization": {"stage": 2}, "train_micro_batch_size_per_gpu": "auto", "train_batch_size": "auto"}
ZERO |= {"gradient_accumulation_steps": "auto", "gradient_clipping": "auto", "bf16": {"enabled": "auto"}}
ZERO3 = ZERO | {"zero_optimization": {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True}}
SHARDING = {
    "fsdp": ["--fsdp"],
    "fsdp_shards": ["--fsdp", "--fsdp_config", json.dumps({"state_dict_type": "SHARDED_STATE_DICT"})],
    "zero2": ["--deepspeed", json.dumps(ZERO)],
    "zero3": ["--deepspeed", json.dumps(ZERO3)],
}


@pytest.mark.parametrize("name", SHARDING)
def test_sharded_policy(name, whole, policy, rules_url, tmp_path):
    """A policy that is sharded over the processes is evaluated and saved whole, and its run resumes."""
    if "--deepspeed" in SHARDING[name] and importlib.util.find_spec("deepspeed") is None:
        pytest.skip("the package deepspeed is not installed")
    folder, other = tmp_path / "run", tmp_path / "other"
    output_of(torchrun(short_run(policy, rules_url, folder, **SETTINGS) + SHARDING[name]))
    assert read_run(folder).before["decodings"] == read_run(whole[0]).before["decodings"]
    assert recorded(folder)[:4] == recorded(whole[0])[:4]  # of the first step, before rounding makes a difference
    alone = evaluate(*parse(short_run(str(folder / "policy"), rules_url, tmp_path / "alone", judges="vader")))
    assert read_run(alone).before["decodings"] == read_run(folder).after["decodings"]
    resumed = SETTINGS | {"resume_from_checkpoint": folder / "checkpoint-4"}
    output_of(torchrun(short_run(policy, rules_url, other, **resumed) + SHARDING[name]))
    assert recorded(other) == [row for row in recorded(folder) if row[0] == STEPS]

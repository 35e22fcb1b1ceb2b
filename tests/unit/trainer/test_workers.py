import re
import sys
from types import SimpleNamespace

import pytest
import torch

from trainer import checkpoints, workers
from trainer.cli import main
from trainer.errors import TrainerError
from trainer.workers import (
    Outcome,
    WorkerOptions,
    forwarded_environment,
    resume_restarted,
    share_cores,
    split_options,
    train_on_workers,
    without_secrets,
)


def test_no_workers():
    """Without --workers all flags are those of one process."""
    flags = ["--config", "banana", "--workers_other", "2"]
    assert split_options(flags) == (None, flags)


def test_options_are_split():
    """The options of the workers are taken out of the flags, whose order stays."""
    flags = ["--config", "banana", "--workers", "4", "--gpus-per-worker", "1", "--address", "a:1", "--max_steps", "2"]
    assert split_options(flags) == (WorkerOptions(4, 1.0, "a:1"), ["--config", "banana", "--max_steps", "2"])
    for flags in (["--workers", "0"], ["--address", "a:1"]):
        with pytest.raises(TrainerError, match="--workers N, at least 1"):
            split_options(flags)


def test_help_names_workers(capsys):
    """The help of `train` has the options of the workers beside those of the run."""
    with pytest.raises(SystemExit):
        main(["train", "--workers", "2", "--help"])
    assert {"--workers N", "--address HOST:PORT", "--max_steps"} <= set(
        re.findall(r"--(?:workers N|address HOST:PORT|max_steps)", capsys.readouterr().out)
    )


def test_forwarded_environment():
    """Workers have the command's rewards, models and threads, also on a Ray that runs; its dashboard shows no key."""
    public = {"REWARD_URL": "http://a:1", "REMOTE_REWARDS_HOME": "/m", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2"}
    secret = {"REWARD_API_KEY": "k", "HF_TOKEN": "t"}
    environment = forwarded_environment({**public, **secret, "HOME": "/root"})
    assert environment == {**public, **secret}
    assert without_secrets(environment) == public


@pytest.mark.parametrize(("workers_here", "threads"), [(1, 8), (3, 2), (16, 1)])
def test_share_of_cores(monkeypatch, workers_here, threads):
    """A worker computes with its share of the cores of its own machine."""
    monkeypatch.setattr(torch, "set_num_threads", (computed := []).append)
    share_cores(8, {"LOCAL_WORLD_SIZE": str(workers_here)})
    assert computed == [threads]


def test_ray_is_missing(monkeypatch, capsys):
    """Without Ray, one sentence says what to install."""
    monkeypatch.setattr(workers, "find_spec", lambda name: None)
    monkeypatch.setattr("trainer.cli.signal.signal", lambda *_: None)
    assert main(["train", "--config", "banana", "--workers", "2"]) == 2
    assert "pip install 'remote-rewards[trainer,ray]'" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--max_steps", "many"], ["--max_step_s", "2"], ["--config", "absent"]])
def test_wrong_flags_first(monkeypatch, flags, capsys):
    """What is wrong with the flags is found before Ray starts."""
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(workers, "find_spec", lambda name: True)
    with pytest.raises((TrainerError, SystemExit)) as caught:
        train_on_workers(WorkerOptions(2), ["--config", "banana", *flags])
    assert flags[1] in f"{caught.value}{capsys.readouterr().err}"


@pytest.fixture
def restarted(monkeypatch, tmp_path):
    """Return a function that restarts a run and returns what it resumes from, and whether it replaces its folder."""
    monkeypatch.setattr(checkpoints, "latest", lambda folder: next(folder.glob("checkpoint-*"), None))

    def restart(*names, requested=None):
        for name in names:
            (tmp_path / name).touch()
        run = SimpleNamespace(overwrite=False)
        args = SimpleNamespace(output_dir=str(tmp_path), resume_from_checkpoint=requested)
        resume_restarted(run, args)
        return args.resume_from_checkpoint, run.overwrite

    return restart


@pytest.mark.parametrize("requested", [None, "false", "true", "auto", "runs/a/checkpoint-1"])
def test_restart_resumes(restarted, requested):
    """A run whose rank has died resumes from its latest checkpoint, whatever the flags say."""
    assert restarted("checkpoint-9", requested=requested) == ("auto", False)


def test_restart_before_a_checkpoint(restarted):
    """A run that has died before its first checkpoint begins as the flags say; a finished run is not replaced."""
    assert restarted(requested="false") == ("auto", False)
    assert restarted(requested="runs/a/checkpoint-1") == ("runs/a/checkpoint-1", True)
    assert restarted("after.json", requested="runs/a/checkpoint-1") == ("runs/a/checkpoint-1", False)


def test_outcome():
    """A rank knows whether it is started again, and the first error that stops a run counts."""
    outcome = Outcome()
    assert [outcome.start(rank) for rank in (0, 1, 0)] == [False, False, True]
    assert outcome.stopped_by() is None
    first = TrainerError("first")
    outcome.stop(first)
    outcome.stop(TrainerError("second"))
    assert outcome.stopped_by() is first

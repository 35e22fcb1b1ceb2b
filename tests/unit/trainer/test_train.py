import contextlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from remote_rewards import remote_reward
from shared.errors import ServiceUnreachable
from shared.schemas import RewardInfo
from trainer import train as training
from trainer.config import parse, recipe_path
from trainer.errors import TrainerError
from trainer.run_folder import RunFolder, read_run
from trainer.train import open_run_folder, run_training, train

INFO = RewardInfo(name="banana", kind="rule", description="", revision="1")


class Learned:
    """A trainer that has learned at once."""

    state = SimpleNamespace(global_step=1)

    def __init__(self, **_):
        self.last_completions = list

    def remove_callback(self, _):
        pass

    add_callback = remove_callback

    def train(self, **_):
        pass

    def save_model(self, folder):
        Path(folder).mkdir()


def unreachable_after(evaluator, trainer, run, folder, when):
    if when == "after":
        raise ServiceUnreachable("nobody answers")


@pytest.fixture
def run(monkeypatch, tmp_path):
    """A run of which only the rewards and the policy are not real."""
    monkeypatch.setattr(training, "RecordedRLOOTrainer", Learned)
    monkeypatch.setattr(training, "load_policy_and_tokenizer", lambda *_: (None, None))
    reward = SimpleNamespace(client=None)
    monkeypatch.setattr(training, "connect_rewards", lambda *_: ([reward], [INFO], {"banana": "1", "measured": "2"}))
    return parse(["--config", str(recipe_path("banana")), "--output_dir", str(tmp_path / "run")])


def test_a_policy_is_saved_before_rewards_are_asked_what_it_has_learned(run, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(training, "evaluate_policy", unreachable_after)
    with pytest.raises(ServiceUnreachable):
        train(*run)
    saved = tmp_path / "run" / "policy"
    assert saved.is_dir()
    assert f"`reward-trainer evaluate --model_name_or_path {saved} --output_dir" in capsys.readouterr().err


@pytest.mark.parametrize(("allowed", "told"), [("false", {"banana": "1", "measured": "1"}), ("true", {})])
def test_processes_tell_each_other_the_revisions_that_they_have_met_unless_those_may_differ(monkeypatch, allowed, told):
    def all_ranks_succeed_sync(work, timeout_s, revisions_of):
        found = work()
        assert revisions_of(found) == told
        return found

    monkeypatch.setattr(training, "all_ranks_succeed_sync", all_ranks_succeed_sync)
    client = SimpleNamespace(info=lambda **_: None)
    monkeypatch.setattr(training, "reward_of", lambda *_: SimpleNamespace(client=client, handshake=lambda _: INFO))
    words = ["--eval_rewards", "measured", "--allow_revision_change", allowed]
    run, *_ = parse(["--config", str(recipe_path("banana")), *words])
    assert training.connect_rewards(run)[2] == {"banana": "1", "measured": "1"}


def test_reward_has_the_settings_of_the_run():
    """The reward functions of a run have its timeout and its hedging delay."""
    flags = ["--reward_timeout_s", "7", "--hedge_after_s", "2", "--reward_url", "http://127.0.0.1:1"]
    run, *_ = parse(["--config", str(recipe_path("banana")), *flags])
    same = remote_reward("http://127.0.0.1:1", "banana", timeout_s=7.0, hedge_after_s=2.0)
    assert training.reward_of(run, "banana").client is same.client


@pytest.mark.parametrize("value", ["0", "-1", "nan"])
def test_hedge_after_s_must_be_positive(value):
    """A hedging delay that is not above 0 is an error."""
    with pytest.raises(TrainerError, match="--hedge_after_s"):
        parse(["--config", str(recipe_path("banana")), "--hedge_after_s", value])


@pytest.mark.parametrize(("steps", "said"), [(7, "training 7 steps on banana"), (-1, "training 2 epochs on banana")])
def test_a_run_says_how_long_it_trains(run, monkeypatch, capsys, steps, said):
    run[1].max_steps, run[1].num_train_epochs = steps, 2.0
    monkeypatch.setattr(training, "evaluate_policy", unreachable_after)
    with pytest.raises(ServiceUnreachable):
        train(*run)
    assert said in capsys.readouterr().err


def test_a_run_notes_the_revisions_of_all_its_rewards(run, monkeypatch, tmp_path):
    monkeypatch.setattr(training, "evaluate_policy", unreachable_after)
    with pytest.raises(ServiceUnreachable):
        train(*run)
    noted = json.loads((tmp_path / "run" / "rewards.json").read_text())
    assert noted["revisions"] == {"banana": "1", "measured": "2"}


@pytest.mark.parametrize("weights", [[], [1.0, 2.0]])
def test_weights_that_are_not_one_for_each_reward_are_told_before_the_folder_is_made(run, tmp_path, weights):
    run[1].reward_weights = weights
    with pytest.raises(TrainerError, match=f"--reward_weights has {len(weights)} weights for 1 rewards"):
        train(*run)
    assert not (tmp_path / "run").exists()


def test_several_processes_are_refused_before_one_of_them_takes_anothers_folder(run, monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainerError, match="trains in one process"):
        train(*run)
    assert not (tmp_path / "run").exists()


def held(folder):
    """A folder with a run of which two steps and the checkpoint of the first are there."""
    checkpoint = folder / "checkpoint-1"
    checkpoint.mkdir(parents=True)
    (checkpoint / "trainer_state.json").write_text('{"global_step": 1}')
    RunFolder(folder).write_config({"recipe": "", "rewards": [], "policy": "", "model": {}})
    RunFolder(folder).append("metrics.jsonl", {"step": 1}, {"step": 2})
    return checkpoint


def steps_noted(folder):
    return [row["step"] for row in read_run(folder).metrics]


def test_a_run_goes_on_in_the_folder_of_its_checkpoint(run, tmp_path):
    checkpoint = held(tmp_path / "run")
    open_run_folder(*run[:2], checkpoint)
    assert steps_noted(tmp_path / "run") == [1]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_checkpoint_of_another_folder_does_not_let_a_run_be_mixed_with_the_one_that_is_there(
    run, tmp_path, overwrite
):
    held(tmp_path / "run")
    elsewhere = held(tmp_path / "other")
    run[0].overwrite = overwrite
    with contextlib.nullcontext() if overwrite else pytest.raises(TrainerError, match="holds an earlier run"):
        open_run_folder(*run[:2], elsewhere)
    assert steps_noted(tmp_path / "run") == ([] if overwrite else [1, 2])
    assert steps_noted(tmp_path / "other") == [1, 2]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("inner", ["mine", "mine/deeper", "checkpoint-1"])
def test_a_folder_round_the_one_of_a_checkpoint_is_not_taken_for_it_nor_replaced(run, tmp_path, inner, overwrite):
    held(tmp_path / "run")
    checkpoint = held(tmp_path / "run" / inner)
    run[0].overwrite = overwrite
    with pytest.raises(TrainerError, match="is of another run"):
        open_run_folder(*run[:2], checkpoint)
    assert steps_noted(tmp_path / "run") == [1, 2]
    assert checkpoint.exists()


class Stopping:
    """A trainer that is stopped in its third step, and keeps the second as it is told to."""

    state = SimpleNamespace(global_step=2, max_steps=4)
    last_completions = add_callback = staticmethod(lambda *_: None)

    def __init__(self, stopped_by, save_last_step=lambda: Path("checkpoint-2")):
        self._stopped_by, self.save_last_step = stopped_by, save_last_step

    def train(self, **_):
        raise self._stopped_by


@pytest.mark.parametrize("stopped_by", [ServiceUnreachable("nobody answers"), KeyboardInterrupt(), SystemExit(143)])
def test_a_bar_is_ended_before_it_is_told_that_training_has_stopped(monkeypatch, stopped_by):
    told = []
    bar = SimpleNamespace(close=lambda: told.append("ended"))
    monkeypatch.setattr(training, "LiveProgress", lambda _: bar)
    monkeypatch.setattr(training, "say", told.append)
    with pytest.raises(type(stopped_by)):
        run_training(Stopping(stopped_by), None)
    by_rewards = isinstance(stopped_by, ServiceUnreachable)
    assert [line.partition(":")[0] for line in told] == ["ended", *(["stopped in step 3 of 4"] if by_rewards else [])]


def test_a_disk_that_is_full_does_not_hide_why_a_run_has_stopped(capsys):
    def save_last_step():
        raise OSError("no space left on device")

    with pytest.raises(ServiceUnreachable) as stopped:
        run_training(Stopping(ServiceUnreachable("nobody answers"), save_last_step), None)
    assert stopped.value.__context__ is None
    said = "stopped in step 3 of 4: the last step could not be kept: no space left on device"
    assert said in capsys.readouterr().err

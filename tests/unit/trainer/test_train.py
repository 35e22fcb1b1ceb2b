import contextlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from remote_rewards import remote_reward
from shared.errors import RankFailed, ServiceUnreachable
from shared.schemas import RewardInfo
from tests.small_models import small_tokenizer
from trainer import rewards as connecting
from trainer import train as training
from trainer.checkpoints import REQUIRED_FILES, latest
from trainer.config import parse
from trainer.errors import TrainerError
from trainer.monitor.callback import HackMonitorCallback
from trainer.monitor.monitor import replay
from trainer.rewards import ConnectedRewards
from trainer.run_folder import RunFolder, read_run
from trainer.train import load_policy_and_tokenizer, open_run_folder, run_training, train
from trainer.trainers import TRAINER_CLASSES

INFO = RewardInfo(name="banana", kind="rule", description="", revision="1")


class InstantTrainer:
    """A trainer whose training takes no time."""

    state = SimpleNamespace(global_step=1)

    def __init__(self, args, run_folder, **_):
        self.step_completions, self.args, self.run_folder = [], args, run_folder

    def remove_callback(self, _):
        pass

    add_callback = remove_callback

    def unwrapped_policy(self):
        return torch.nn.Identity()

    def train(self, **_):
        pass

    def save_policy(self, folder, **_):
        Path(folder).mkdir()


def unreachable_after(evaluator, policy, folder, when, *, step):
    if when == "after":
        raise ServiceUnreachable("nobody answers")


@pytest.fixture
def run(monkeypatch, tmp_path):
    """The arguments of a run without real rewards and policy, whose rewards are unreachable after training."""
    rewards = ConnectedRewards([SimpleNamespace(client=None, name="banana")], [INFO], {"banana": "1", "measured": "2"})
    monkeypatch.setitem(TRAINER_CLASSES, "rloo", InstantTrainer)
    monkeypatch.setattr(training, "load_policy_and_tokenizer", lambda *_: (None, None))
    monkeypatch.setattr(training, "check_trainable", lambda _: None)
    monkeypatch.setattr(training, "connect_rewards", lambda *_: rewards)
    monkeypatch.setattr(training, "evaluate_policy", unreachable_after)
    return parse(["--config", "banana", "--output_dir", str(tmp_path / "run")])


def test_policy_is_saved_first(run, tmp_path, capsys):
    """The policy is saved before the evaluation after training, and the message says how to repeat that."""
    with pytest.raises(ServiceUnreachable):
        train(*run)
    saved = tmp_path / "run" / "policy"
    assert saved.is_dir()
    assert f"`reward-trainer evaluate --model_name_or_path {saved} --output_dir" in capsys.readouterr().err


@pytest.mark.parametrize(("steps", "message"), [(7, "training 7 steps on banana"), (-1, "training 2 epochs on banana")])
def test_training_length(run, capsys, steps, message):
    """The length of training is printed in steps, or in epochs if no steps are set."""
    run[1].max_steps, run[1].num_train_epochs = steps, 2.0
    with pytest.raises(ServiceUnreachable):
        train(*run)
    assert message in capsys.readouterr().err


def test_manifest_has_all_revisions(run, tmp_path):
    """rewards.json has the revisions of all rewards, including those only evaluated with."""
    with pytest.raises(ServiceUnreachable):
        train(*run)
    manifest = json.loads((tmp_path / "run" / "rewards.json").read_text())
    assert manifest["revisions"] == {"banana": "1", "measured": "2"}


def test_manifest_has_judges(run, tmp_path):
    """rewards.json lists the judges, with a revision or a description."""
    run[0].judges = ["vader"]
    with pytest.raises(ServiceUnreachable):
        train(*run)
    judges = json.loads((tmp_path / "run" / "rewards.json").read_text())["judges"]
    assert judges == [{"name": "vader", "kind": "local", "description": "Return VADER's compound score, -1 to 1."}]


def test_unknown_judge():
    """A judge that is neither local nor a reward of the service is an error that suggests the nearest."""
    service = SimpleNamespace(rewards=[INFO])
    trained = {"banana": SimpleNamespace(client=SimpleNamespace(info=lambda **_: service))}
    with pytest.raises(TrainerError, match=r"unknown judge 'vadr'; did you mean 'vader'.* service \(banana\) and "):
        connecting.reward_infos(trained, {"vadr": None}, 1.0)


def test_weight_0_is_a_judge(run, monkeypatch, tmp_path):
    """A reward of weight 0 is a judge of the hack monitor, in training as in a replay of the run folder."""
    callbacks = []
    monkeypatch.setattr(InstantTrainer, "add_callback", lambda _, callback: callbacks.append(callback))
    run[0].judges, run[1].reward_weights = ["vader"], [0.0]
    with pytest.raises(ServiceUnreachable):
        train(*run)
    (in_training,) = [callback.monitor for callback in callbacks if isinstance(callback, HackMonitorCallback)]
    assert in_training.judges == replay(read_run(tmp_path / "run")).judges == ["banana", "vader"]


@pytest.mark.parametrize("weights", [[], [1.0, 2.0]])
def test_weights_per_reward(run, tmp_path, weights):
    """Another number of weights than of rewards is an error before the run folder is created."""
    run[1].reward_weights = weights
    with pytest.raises(TrainerError, match=f"--reward_weights has {len(weights)} weights for 1 rewards"):
        train(*run)
    assert not (tmp_path / "run").exists()


def test_unconnected_processes(run, monkeypatch, tmp_path):
    """Processes that torch.distributed does not connect are refused before the run folder is created."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainerError, match=r"2 processes were started, and torch\.distributed connects none"):
        train(*run)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("allowed", "compared"), [("false", [{"banana_answer": "1", "measured": "1"}]), ("true", [])])
def test_ranks_compare_revisions(monkeypatch, allowed, compared):
    """Processes compare the revisions that the service has told them, unless revisions may change."""
    checked = []

    service = SimpleNamespace(rewards=[SimpleNamespace(name=name) for name in ("banana_answer", "measured")])
    reward = SimpleNamespace(client=SimpleNamespace(info=lambda **_: service), handshake=lambda _: INFO)
    monkeypatch.setattr(connecting, "check_same_revisions", checked.extend)
    monkeypatch.setattr(connecting, "reward_function", lambda *_, **__: reward)
    flags = ["--judges", "measured", "--allow_revision_change", allowed]
    run, *_ = parse(["--config", "banana", *flags])
    assert connecting.connect_rewards(run).revisions == {"banana_answer": "1", "measured": "1"}
    assert checked == compared


@pytest.mark.parametrize(
    ("flags", "hedge_after_s"), [(["--hedge_after_s", "2"], 2.0), (["--hedge_after_s", "0"], None), ([], "auto")]
)
def test_reward_has_the_settings_of_the_run(flags, hedge_after_s):
    """The reward functions of a run have its timeout and its hedging delay; 0 stands for no hedging."""
    run, *_ = parse(["--config", "banana", "--reward_timeout_s", "7", "--reward_url", "http://127.0.0.1:1", *flags])
    same = remote_reward("http://127.0.0.1:1", "banana", timeout_s=7.0, hedge_after_s=hedge_after_s)
    assert connecting.reward_function(run, "banana").client is same.client


def test_policy_in_the_run_folder(tmp_path):
    """A policy in the run folder is refused before the folder is replaced."""
    policy = tmp_path / "run" / "policy"
    policy.mkdir(parents=True)
    (policy / "model.safetensors").touch()
    (policy / "config.json").write_text("{}")
    argv = ["--config", "banana", "--model_name_or_path", str(policy), "--output_dir", str(tmp_path / "run")]
    with pytest.raises(TrainerError, match="choose another --output_dir"):
        load_policy_and_tokenizer(*parse([*argv, "--overwrite", "true"]), [])
    assert policy.exists()


def test_template_refuses_system_turn(run, monkeypatch, tmp_path):
    """Prompts that the policy's chat template refuses are an error before an earlier run is replaced."""
    run_with_checkpoint(tmp_path / "run")
    run[0].overwrite = True
    monkeypatch.setattr(training, "load_policy_and_tokenizer", load_policy_and_tokenizer)
    monkeypatch.setattr(training, "load_tokenizer", lambda _: small_tokenizer("gemma"))
    with pytest.raises(TrainerError, match=r"chat template refuses a prompt: System role .*pass --system_prompt ''"):
        train(*run)
    assert logged_steps(tmp_path / "run") == [1, 2]


def run_with_checkpoint(folder):
    """Write a run of two steps with a checkpoint of the first; return the checkpoint."""
    checkpoint = folder / "checkpoint-1"
    checkpoint.mkdir(parents=True)
    (checkpoint / "trainer_state.json").write_text('{"global_step": 1}')
    RunFolder(folder).write_config({"recipe": "", "rewards": [], "policy": "", "model": {}})
    RunFolder(folder).append("metrics.jsonl", {"step": 1}, {"step": 2})
    return checkpoint


def logged_steps(folder):
    return [row["step"] for row in read_run(folder).metrics]


def test_resume_in_the_same_folder(run, tmp_path):
    """A run resumed from a checkpoint of its folder continues there, from the checkpoint's step."""
    checkpoint = run_with_checkpoint(tmp_path / "run")
    open_run_folder(*run[:2], checkpoint)
    assert logged_steps(tmp_path / "run") == [1]


def test_later_checkpoints(run, tmp_path):
    """A run resumed from an earlier checkpoint sets the later ones aside: the next `auto` takes none of them."""
    checkpoint = run_with_checkpoint(tmp_path / "run")
    later = tmp_path / "run" / "checkpoint-2"
    shutil.copytree(checkpoint, later)
    (later / "trainer_state.json").write_text('{"global_step": 2}')
    for folder in (checkpoint, later):
        for name in (*REQUIRED_FILES, "rng_state.pth"):
            (folder / name).touch()
    open_run_folder(*run[:2], checkpoint)
    assert latest(tmp_path / "run") == checkpoint
    assert (tmp_path / "run" / "replaced-checkpoint-2" / "trainer_state.json").exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_resume_from_another_folder(run, tmp_path, overwrite):
    """A run resumed from another folder does not mix with an earlier run in its own."""
    run_with_checkpoint(tmp_path / "run")
    checkpoint = run_with_checkpoint(tmp_path / "other")
    run[0].overwrite = overwrite
    with contextlib.nullcontext() if overwrite else pytest.raises(TrainerError, match="holds an earlier run"):
        open_run_folder(*run[:2], checkpoint)
    assert logged_steps(tmp_path / "run") == ([] if overwrite else [1, 2])
    assert logged_steps(tmp_path / "other") == [1, 2]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("inner", ["mine", "mine/deeper", "checkpoint-1"])
def test_resume_from_an_inner_folder(run, tmp_path, inner, overwrite):
    """A checkpoint of another run inside the run folder is refused, and nothing is replaced."""
    run_with_checkpoint(tmp_path / "run")
    checkpoint = run_with_checkpoint(tmp_path / "run" / inner)
    run[0].overwrite = overwrite
    with pytest.raises(TrainerError, match="belongs to another run"):
        open_run_folder(*run[:2], checkpoint)
    assert logged_steps(tmp_path / "run") == [1, 2]
    assert checkpoint.exists()


class StoppedTrainer:
    """A trainer that is stopped in its third step."""

    state = SimpleNamespace(global_step=2, max_steps=4)
    step_completions = ()
    add_callback = staticmethod(lambda *_: None)

    def __init__(self, error, save_last_step=lambda: Path("checkpoint-2"), folder=None):
        self._error, self.save_last_step = error, save_last_step
        self.args = SimpleNamespace(output_dir=folder)

    def train(self, **_):
        raise self._error


@pytest.mark.parametrize("error", [ServiceUnreachable("nobody answers"), KeyboardInterrupt(), SystemExit(143)])
def test_progress_bar_is_closed_first(monkeypatch, error):
    """The progress bar is closed, whatever stops training, before the message is printed."""
    events = []
    monkeypatch.setattr(training, "LiveProgress", lambda *_: SimpleNamespace(close=lambda: events.append("closed")))
    monkeypatch.setattr(training, "log", events.append)
    with pytest.raises(type(error)):
        run_training(StoppedTrainer(error), None, None)
    messages = ["stopped in step 3 of 4"] if isinstance(error, ServiceUnreachable) else []
    assert [event.partition(":")[0] for event in events] == ["closed", *messages]


def test_full_disk(tmp_path, capsys):
    """A disk that is full does not hide why the run has stopped."""

    def save_last_step():
        raise OSError("no space left on device")

    with pytest.raises(ServiceUnreachable) as stopped:
        run_training(StoppedTrainer(ServiceUnreachable("nobody answers"), save_last_step, tmp_path), None, None)
    assert stopped.value.__context__ is None
    message = "stopped in step 3 of 4: the last step could not be saved: no space left on device\n"
    assert message in capsys.readouterr().err


def test_hint_at_the_last_checkpoint(tmp_path, capsys):
    """A run that cannot save its last step, because a rank has died, names the checkpoint to resume from."""

    def save_last_step():
        raise RankFailed("another rank of this run has died")

    checkpoint = run_with_checkpoint(tmp_path)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state_0.pth", "rng_state_1.pth"):
        (checkpoint / name).touch()
    with pytest.raises(RankFailed):
        run_training(StoppedTrainer(RuntimeError("/gloo/ closed"), save_last_step, tmp_path), None, None)
    assert f"has died; resume with --resume_from_checkpoint {checkpoint}\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("requested", "finished", "replaced"), [("auto", False, True), ("auto", True, False), ("false", False, False)]
)
def test_auto_begins_again(run, tmp_path, requested, finished, replaced):
    """With `auto`, a run that died before its first checkpoint begins again; a finished one is kept."""
    run_with_checkpoint(tmp_path / "run")
    (tmp_path / "run" / "checkpoint-1" / "trainer_state.json").unlink()
    if finished:
        (tmp_path / "run" / "after.json").write_text("{}")
    run[1].resume_from_checkpoint = requested
    with contextlib.nullcontext() if replaced else pytest.raises(TrainerError, match="holds an earlier run"):
        open_run_folder(*run[:2], None)
    assert logged_steps(tmp_path / "run") == ([] if replaced else [1, 2])

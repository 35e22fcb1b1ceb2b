import itertools
from types import SimpleNamespace

import pytest
import torch
from trl import RLOOTrainer

from trainer.checkpoints import MID_STEP_MARKER, STATE
from trainer.online_trainers import RecordedRLOOTrainer
from trainer.run_folder import RunFolder, read_run


class Stopped(RecordedRLOOTrainer):
    """A trainer that was stopped after `step` steps, and has saved `saved_step`."""

    model = None

    def __init__(self, folder, step, saved_step):
        self.args, self.state = SimpleNamespace(output_dir=folder), SimpleNamespace(global_step=step)
        self._rng = SimpleNamespace(restore=lambda: self.events.append("restored"))
        self._saved_step, self.events = saved_step, []

    def _save_checkpoint(self, *_, **__):
        self.events.append("saved")
        self.checkpoint_path().mkdir()


@pytest.mark.parametrize(("saved_step", "events"), [(None, ["restored", "saved"]), (5, ["restored", "saved"]), (6, [])])
def test_save_last_step(tmp_path, saved_step, events):
    """A stopped run saves its last step, marked as mid-step, unless it has been saved already."""
    stopped = Stopped(tmp_path, 6, saved_step)
    assert stopped.save_last_step() == tmp_path / "checkpoint-6"
    assert stopped.events == events
    assert (tmp_path / "checkpoint-6" / MID_STEP_MARKER).exists() is bool(events)


@pytest.mark.parametrize(("folder", "events"), [("run", []), ("other", ["restored", "saved"])])
def test_own_checkpoint_is_kept(monkeypatch, tmp_path, folder, events):
    """A run stopped in the first step after resuming does not overwrite its own checkpoint."""
    monkeypatch.setattr(RLOOTrainer, "train", lambda *_, **__: None)
    (tmp_path / "run").mkdir()
    checkpoint = tmp_path / folder / "checkpoint-6"
    checkpoint.mkdir(parents=True)
    (checkpoint / STATE).write_text('{"global_step": 6}')
    resumed = Stopped(tmp_path / "run", 6, None)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert resumed.save_last_step() == tmp_path / "run" / "checkpoint-6"
    assert resumed.events == events


def test_no_step_saves_nothing(tmp_path):
    """A run stopped in its first step saves nothing."""
    assert Stopped(tmp_path, 0, None).save_last_step() is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("step", "trains"), [(3, True), (4, False), (5, False)])
def test_resume_at_the_end(monkeypatch, tmp_path, step, trains):
    """A run resumed at `max_steps` takes no further step."""
    monkeypatch.setattr(RLOOTrainer, "_run_epoch", lambda trainer, *_, **__: trainer.events.append("trained"))
    resumed = Stopped(tmp_path, step, None)
    resumed.state.max_steps, resumed.control = 4, SimpleNamespace(should_training_stop=False)
    resumed._run_epoch(epoch=0)
    assert (resumed.events, resumed.control.should_training_stop) == (["trained"] if trains else [], not trains)


class Recording(Stopped):
    """A trainer whose completions are numbers, two a batch."""

    def __init__(self, folder):
        super().__init__(folder, 0, None)
        self.run_folder, self.judges = RunFolder(folder), ["judge", "strict_success"]
        self.step_completions, self._seconds, self._step_started_s = [], {}, 0.0
        self.reward_func_names, self.reward_weights = ["banana", "judge"], torch.tensor([2.0, 0.0])
        self.eos_token_ids, self._tokenizer = [9], SimpleNamespace(pad_token_id=9)
        self.numbers, self.num_generations = itertools.count(), 2

    def make_batch(self):
        chats = [[{"role": "user", "content": str(next(self.numbers))}] for _ in range(2)]
        self._logs = {
            "prompt": chats,
            "completion": chats,
            "advantages": [0.0, 0.0],
            "rewards": {"banana": [1.0, float("nan")], "judge": [0.5, 0.5]},
        }
        self._generated = [[1, 2], [1, 2, 9]]

    def step(self, batches):
        for _ in range(batches):
            self._generate_and_score_completions([])
        self.state.global_step += 1
        self.log({"loss": 0.0})


@pytest.mark.parametrize(
    ("batches", "steps"),
    [([1, 1], [1, 1, 2, 2]), ([2, 2], [1, 1, 1, 1, 2, 2, 2, 2]), ([1, 0, 1, 0], [1, 1, 3, 3])],
)
def test_completions_are_recorded_once(monkeypatch, tmp_path, batches, steps):
    """Each completion is recorded once, with its step and scores; a missing reward is null, and no judge adds to it."""
    monkeypatch.setattr(RLOOTrainer, "_generate_and_score_completions", lambda trainer, _: trainer.make_batch())
    monkeypatch.setattr(RLOOTrainer, "log", lambda *_: None)
    trainer = Recording(tmp_path)
    for count in batches:
        trainer.step(count)
    metrics, records = read_run(tmp_path).metrics, read_run(tmp_path).samples
    assert [record["step"] for record in records] == steps
    places = [(record["step"], record["group"]) for record in records]
    assert {places.count(place) for place in places} == {2}
    assert [record["completion"] for record in records] == [str(number) for number in range(len(steps))]
    assert [record["scores"] for record in records] == [
        {"banana": score, "judge": 0.5, "strict_success": 0.0} for score in [1.0, None] * (len(steps) // 2)
    ]
    assert [record["reward"] for record in records] == [2.0, None] * (len(steps) // 2)
    assert [(record["tokens"], record["cut_off"]) for record in records[:2]] == [(2, True), (3, False)]
    means = [(line.get("judges/judge/mean"), line.get("judges/strict_success/mean")) for line in metrics]
    assert means == [(0.5, 0.0) if count else (None, None) for count in batches]

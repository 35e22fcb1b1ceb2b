import itertools
from types import SimpleNamespace

import pytest
from trl import RLOOTrainer

from trainer.checkpoints import MID_STEP_MARKER, STATE
from trainer.rloo import RecordedRLOOTrainer
from trainer.run_folder import RunFolder, read_run


class Stopped(RecordedRLOOTrainer):
    """A trainer that its rewards have stopped after so many steps, of which it had saved one."""

    model = None

    def __init__(self, folder, step, saved_step):
        self.args, self.state = SimpleNamespace(output_dir=folder), SimpleNamespace(global_step=step)
        self.accelerator = SimpleNamespace(is_main_process=True)
        self._rng = SimpleNamespace(restore=lambda: self.done.append("restored"))
        self._saved_step, self.done = saved_step, []

    def _save_checkpoint(self, *_, **__):
        self.done.append("saved")
        self.checkpoint().mkdir()


@pytest.mark.parametrize(("saved_step", "done"), [(None, ["restored", "saved"]), (5, ["restored", "saved"]), (6, [])])
def test_a_stopped_run_writes_its_last_step_down_unless_it_has_been_saved_as_it_ended(tmp_path, saved_step, done):
    stopped = Stopped(tmp_path, 6, saved_step)
    assert stopped.save_last_step() == tmp_path / "checkpoint-6"
    assert stopped.done == done
    assert (tmp_path / "checkpoint-6" / MID_STEP_MARKER).exists() is bool(done)


@pytest.mark.parametrize(("folder", "done"), [("run", []), ("other", ["restored", "saved"])])
def test_a_run_that_is_stopped_in_the_step_it_was_resumed_for_leaves_its_own_checkpoint_as_it_was(
    monkeypatch, tmp_path, folder, done
):
    monkeypatch.setattr(RLOOTrainer, "train", lambda *_, **__: None)
    (tmp_path / "run").mkdir()
    checkpoint = tmp_path / folder / "checkpoint-6"
    checkpoint.mkdir(parents=True)
    (checkpoint / STATE).write_text('{"global_step": 6}')
    resumed = Stopped(tmp_path / "run", 6, None)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert resumed.save_last_step() == tmp_path / "run" / "checkpoint-6"
    assert resumed.done == done


def test_a_run_that_is_stopped_in_its_first_step_leaves_nothing(tmp_path):
    assert Stopped(tmp_path, 0, None).save_last_step() is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("step", "trains"), [(3, True), (4, False), (5, False)])
def test_a_run_that_is_resumed_at_its_end_takes_no_step(monkeypatch, tmp_path, step, trains):
    monkeypatch.setattr(RLOOTrainer, "_run_epoch", lambda trainer, *_, **__: trainer.done.append("trained"))
    resumed = Stopped(tmp_path, step, None)
    resumed.state.max_steps, resumed.control = 4, SimpleNamespace(should_training_stop=False)
    resumed._run_epoch(epoch=0)
    assert (resumed.done, resumed.control.should_training_stop) == (["trained"] if trains else [], not trains)


class Noting(Stopped):
    """A trainer whose replies are numbers, two a batch."""

    def __init__(self, folder):
        super().__init__(folder, 0, None)
        self.run_folder, self._unwritten, self._seconds, self._step_started_s = RunFolder(folder), [], {}, 0.0
        self.replies = itertools.count()

    def make(self):
        made = [[{"role": "user", "content": str(next(self.replies))}] for _ in range(2)]
        self._logs = {"prompt": made, "completion": made, "advantages": [0.0, 0.0], "rewards": {"banana": [1.0, 2.0]}}

    def step(self, batches):
        for _ in range(batches):
            self._generate_and_score_completions([])
        self.state.global_step += 1
        self.log({"loss": 0.0})


@pytest.mark.parametrize(
    ("batches", "noted"),
    [([1, 1], [1, 1, 2, 2]), ([2, 2], [1, 1, 1, 1, 2, 2, 2, 2]), ([1, 0, 1, 0], [1, 1, 3, 3])],
)
def test_each_reply_is_noted_once_with_the_step_that_it_was_made_for(monkeypatch, tmp_path, batches, noted):
    monkeypatch.setattr(RLOOTrainer, "_generate_and_score_completions", lambda trainer, _: trainer.make())
    monkeypatch.setattr(RLOOTrainer, "log", lambda *_: None)
    trainer = Noting(tmp_path)
    for made in batches:
        trainer.step(made)
    samples = read_run(tmp_path).samples
    assert [sample["step"] for sample in samples] == noted
    assert [sample["completion"] for sample in samples] == [str(number) for number in range(len(noted))]

from types import SimpleNamespace

import pytest
from trl import RLOOTrainer

from trainer.resuming import KEPT
from trainer.rloo import RecordedRLOOTrainer


class Stopped(RecordedRLOOTrainer):
    """A trainer that its rewards have stopped after so many steps, of which it had saved one."""

    model = None

    def __init__(self, folder, step, saved_step):
        self.args, self.state = SimpleNamespace(output_dir=folder), SimpleNamespace(global_step=step)
        self.accelerator = SimpleNamespace(is_main_process=True)
        self._randomness = SimpleNamespace(put_back=lambda: self.done.append("put back"))
        self._saved_step, self.done = saved_step, []

    def _save_checkpoint(self, *_, **__):
        self.done.append("saved")
        self.checkpoint().mkdir()


@pytest.mark.parametrize(("saved_step", "done"), [(None, ["put back", "saved"]), (5, ["put back", "saved"]), (6, [])])
def test_a_stopped_run_writes_its_last_step_down_unless_it_has_been_saved_as_it_ended(tmp_path, saved_step, done):
    stopped = Stopped(tmp_path, 6, saved_step)
    assert stopped.keep() == tmp_path / "checkpoint-6"
    assert stopped.done == done
    assert (tmp_path / "checkpoint-6" / KEPT).exists() is bool(done)  # it tells resuming where randomness stands


def test_a_run_that_is_stopped_in_its_first_step_leaves_nothing(tmp_path):
    assert Stopped(tmp_path, 0, None).keep() is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("step", "trains"), [(3, True), (4, False), (5, False)])
def test_a_run_that_is_resumed_at_its_end_takes_no_step(monkeypatch, tmp_path, step, trains):
    monkeypatch.setattr(RLOOTrainer, "_run_epoch", lambda trainer, *_, **__: trainer.done.append("trained"))
    resumed = Stopped(tmp_path, step, None)
    resumed.state.max_steps, resumed.control = 4, SimpleNamespace(should_training_stop=False)
    resumed._run_epoch(epoch=0)
    assert (resumed.done, resumed.control.should_training_stop) == (["trained"] if trains else [], not trains)

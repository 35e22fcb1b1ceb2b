import json
import logging
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM
from trl import RLOOConfig

from tests.small_models import small_model, small_tokenizer
from trainer.errors import HackDetected
from trainer.monitor.actions import check_not_stopped, load_best
from trainer.monitor.callback import HackMonitorCallback
from trainer.monitor.monitor import Alarm, alarm_text
from trainer.online_trainers import RecordedRLOOTrainer
from trainer.run_folder import RunFolder

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
SHOWN = [{"prompt": "Why?", "completion": "Sure:\n and banana"}, {"prompt": "How?", "completion": "Sure: and banana"}]
RINGING = Alarm(2, "same_completion", "all completions are one text", SHOWN)
QUALITY = [0.5, 0.9, 0.1, 0.2, 0.3]


class FakeMonitor:
    """Raises an alarm at one step; the quality of each step is given."""

    def __init__(self, alarm_at=None):
        self.alarm_at, self.alarms, self.steps = alarm_at, [], []

    @property
    def ringing(self):
        return bool(self.alarms)

    def observe(self, step):
        self.steps.append((step.number, sum(map(len, step.groups))))
        new = [RINGING] if step.number == self.alarm_at else []
        self.alarms += new
        return {"distinct_2": 0.5}, new

    def quality(self):
        return QUALITY[len(self.steps) - 1]


def logged(callback, step, **control):
    """Log a step; return the control of the run and the logs."""
    control = SimpleNamespace(**{"should_save": False, "should_training_stop": False, **control})
    state, logs = SimpleNamespace(global_step=step, best_metric=None, best_model_checkpoint=None), {"loss": 0.0}
    callback.on_log(SimpleNamespace(output_dir="run", ddp_timeout=1800), state, control, logs)
    return control, logs


@pytest.mark.parametrize(("on_hack", "stops"), [("warn", False), ("stop", True), ("keep_best", False)])
def test_alarm(tmp_path, caplog, on_hack, stops):
    """An alarm is a warning with two completions and a line in alarms.jsonl; with `stop` it ends the run."""
    callback = HackMonitorCallback(FakeMonitor(2), [], RunFolder(tmp_path), on_hack=on_hack)
    with caplog.at_level(logging.WARNING):
        controls = [logged(callback, step)[0] for step in (1, 2, 3)]
    assert [control.should_training_stop for control in controls] == [False, stops, stops]
    assert [control.should_save for control in controls] == [False, stops, stops]
    assert caplog.text.count("same_completion: all completions are one text") == 1
    assert "    How? → Sure: and banana" in caplog.text
    (line,) = map(json.loads, (tmp_path / "alarms.jsonl").read_text().splitlines())
    assert (line["step"], line["signal"], len(line["completions"])) == (2, "same_completion", 2)


def test_stop_waits_for_the_batch(tmp_path):
    """A run stops at the end of its generation batch, from where it can be resumed."""
    callback = HackMonitorCallback(FakeMonitor(2), [], RunFolder(tmp_path), on_hack="stop", batch_steps=3)
    assert [logged(callback, step)[0].should_training_stop for step in (1, 2, 3)] == [False, False, True]


def test_values_are_logged(tmp_path):
    """The signals' values are in the logs of a step; the summary at the end is no step."""
    callback = HackMonitorCallback(FakeMonitor(), [{"prompt": "p", "completion": "c"}], RunFolder(tmp_path))
    assert logged(callback, 1)[1] == {"loss": 0.0, "monitor/distinct_2": 0.5}
    callback.on_log(None, None, None, {"train_runtime": 1.0})
    assert callback.monitor.steps == [(1, 1)]


def test_alarm_text():
    """The completions are on one line each."""
    assert alarm_text(RINGING).splitlines()[1:] == ["    Why? → Sure: and banana", "    How? → Sure: and banana"]


@pytest.fixture(scope="module")
def tokenizer():
    return small_tokenizer()


def trained(folder, tokenizer, monitor, on_hack):
    """Train a small random policy for five steps, with a checkpoint of each; return the trainer and its callback."""
    args = RLOOConfig(
        output_dir=str(folder),
        max_steps=5,
        per_device_train_batch_size=4,
        num_generations=2,
        max_completion_length=4,
        learning_rate=0.1,
        beta=0.0,
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=True,
        logging_steps=1,
        save_strategy="steps" if on_hack == "keep_best" else "no",
        save_steps=1,
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
    )
    prompts = [{"prompt": [{"role": "user", "content": f"Say {number}."}]} for number in range(20)]
    trainer = RecordedRLOOTrainer(
        model=small_model(LlamaForCausalLM, LlamaConfig, tokenizer, num_key_value_heads=4),
        reward_funcs=[lambda completions, **_: [float(len(text[0]["content"])) for text in completions]],
        args=args,
        train_dataset=Dataset.from_list(prompts),
        processing_class=tokenizer,
        run_folder=RunFolder.create(folder, overwrite=False),
    )
    callback = HackMonitorCallback(monitor, trainer.step_completions, trainer.run_folder, on_hack=on_hack)
    trainer.add_callback(callback)
    trainer.train()
    return trainer, callback


def test_stop(tmp_path, tokenizer):
    """A stopped run has a checkpoint of its last step and a report, and says how to continue."""
    trainer, callback = trained(tmp_path, tokenizer, FakeMonitor(2), "stop")
    assert callback.monitor.steps == [(1, 4), (2, 4)]
    with pytest.raises(HackDetected, match=r"step 2 of 5, because all completions .*checkpoint-2 --on_hack warn"):
        check_not_stopped(callback, trainer, trainer.run_folder)
    assert (tmp_path / "checkpoint-2" / "trainer_state.json").exists()
    assert (tmp_path / "report.html").exists()


def test_keep_best(tmp_path, tokenizer):
    """A hacked run ends with its best checkpoint before the alarm, which is not deleted."""
    trainer, callback = trained(tmp_path, tokenizer, FakeMonitor(3), "keep_best")
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-5"]
    last = trainer.model.lm_head.weight.clone()
    assert load_best(callback, trainer) == 2
    assert not torch.equal(trainer.model.lm_head.weight, last)
    best = LlamaForCausalLM.from_pretrained(tmp_path / "checkpoint-2")
    assert torch.equal(trainer.model.lm_head.weight, best.lm_head.weight)


@pytest.mark.parametrize(("on_hack", "hacked"), [("keep_best", False), ("warn", True)])
def test_last_policy_is_kept(on_hack, hacked):
    """A run that was not hacked, or does not keep the best, ends with its last policy."""
    callback = SimpleNamespace(on_hack=on_hack, monitor=SimpleNamespace(alarms=[RINGING] * hacked))
    trainer = SimpleNamespace(state=SimpleNamespace(global_step=5, best_model_checkpoint="checkpoint-2"))
    assert load_best(callback, trainer) == 5


def test_no_rated_checkpoint(capsys):
    """A hacked run without a checkpoint that was rated before the hack says so, and ends with its last policy."""
    callback = SimpleNamespace(on_hack="keep_best", monitor=SimpleNamespace(alarms=[RINGING]))
    trainer = SimpleNamespace(state=SimpleNamespace(global_step=5, best_model_checkpoint=None))
    assert load_best(callback, trainer) == 5
    assert "none of its checkpoints was saved before that and rated by reward and judges" in capsys.readouterr().err

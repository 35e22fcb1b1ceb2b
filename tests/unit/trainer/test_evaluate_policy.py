import json
from types import SimpleNamespace

import pytest
import torch

from trainer import evaluate_policy
from trainer.config import parse
from trainer.evaluate_policy import evaluate
from trainer.evaluator import Evaluator
from trainer.rewards import ConnectedRewards

RESULT = {"step": 0, "policy": "fake", "decodings": {}}


@pytest.fixture
def run(monkeypatch, tmp_path):
    """The arguments of an evaluation without real rewards and policy."""
    rewards = ConnectedRewards([SimpleNamespace(client=None, watch_only=False)], [], {"banana": "1"})
    monkeypatch.setattr(evaluate_policy, "connect_rewards", lambda _: rewards)
    monkeypatch.setattr(evaluate_policy, "load_policy_and_tokenizer", lambda *_: (None, torch.nn.Linear(1, 1)))
    monkeypatch.setattr(Evaluator, "evaluate", lambda *_, **__: RESULT)
    return parse(["--config", "banana", "--output_dir", str(tmp_path / "run"), "--use_cpu", "true"])


def test_evaluate(run, tmp_path):
    """The evaluation is written to before.json, beside the configuration."""
    assert evaluate(*run) == tmp_path / "run"
    assert json.loads((tmp_path / "run" / "before.json").read_text()) == RESULT
    assert (tmp_path / "run" / "config.yaml").exists()

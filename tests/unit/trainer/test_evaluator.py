import json
from types import SimpleNamespace

import pytest
import torch

from shared.errors import FailureBudgetExceeded
from shared.schemas import ItemError, RewardScores
from tests.small_models import small_tokenizer
from trainer.config import parse
from trainer.generation import Decoding, render
from trainer.rewards import ConnectedRewards
from trainer.sampling import Sampler
from trainer.score_requests import check_failure_budget
from trainer.train import build_evaluator


def failing(code, count, total):
    errors = {str(index): ItemError(code=code, message="it broke") for index in range(count)}
    return RewardScores(scores=[None] * count + [1.0] * (total - count), revision="1", errors=errors)


@pytest.mark.parametrize(("code", "total"), [("backend_failed", 200), ("not_finite", 4)])
def test_failure_budget_exceeded(code, total):
    """An evaluation with too few scores is an error that gives the reason."""
    with pytest.raises(FailureBudgetExceeded, match=f"3 of {total} completions have no 'x' score.*{code}: it broke"):
        check_failure_budget("x", failing(code, 3, total), 0.01)


def test_not_applicable_is_no_failure():
    """Completions that a reward does not apply to do not count as failed."""
    check_failure_budget("x", failing("not_applicable", 1, 1), 0.01)


def test_failure_budget_of_the_run():
    """The failure budget is the run's."""
    check_failure_budget("x", failing("backend_failed", 3, 100), 0.05)


@pytest.fixture
def rendered(monkeypatch):
    """The texts that evaluation and sampling have completed, with nothing."""
    texts = []

    def generate(model, tokenizer, prompts, decoding):
        texts.extend(prompts)
        return [("", 0, False)] * len(prompts)

    for module in ("evaluator", "sampling"):
        monkeypatch.setattr(f"trainer.{module}.generate", generate)
    return texts


def test_prompts_as_in_training(rendered):
    """Evaluation and sampling render prompts with the run's arguments of the chat template."""
    tokenizer, rows = small_tokenizer("qwen3"), [{"prompt": [{"role": "user", "content": "Hi"}]}]
    kwargs = {"enable_thinking": False}
    run, args, _ = parse(["--config", "banana", "--chat_template_kwargs", json.dumps(kwargs)])
    client = SimpleNamespace(score=lambda *_, **__: SimpleNamespace(rewards={}))
    rewards = ConnectedRewards([SimpleNamespace(client=client, watch_only=False)], [], {})
    model, decoding = torch.nn.Linear(1, 1), Decoding("greedy", 0.0, 1)
    model.config = SimpleNamespace(_name_or_path="")
    build_evaluator(run, args, tokenizer, rows, rewards).generate(model, decoding, lambda done: None)
    sampler = Sampler(
        *(tokenizer, model, client, {}, decoding),
        completions=1,
        seed=0,
        failure_budget=0.0,
        template_kwargs=args.chat_template_kwargs,
    )
    sampler.sample(rows, first=0)
    assert rendered == [*render(tokenizer, [rows[0]["prompt"]], kwargs)] * 2

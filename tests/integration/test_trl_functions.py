"""TRL's own reward functions and users' own, through the adapter, against the numbers that they give in process."""

import datetime
import math

import httpx
import pytest
import trl.rewards
from transformers import TrainerState

from remote_rewards import RewardClient, remote_reward
from reward_service.settings import Settings
from shared.errors import BadRequest, NotSerializable
from tests import reward_functions
from tests.conftest import running_service

MY_REWARDS = """
from trl.rewards import (
    accuracy_reward, get_cosine_scaled_reward, get_repetition_penalty_reward, get_soft_overlong_punishment,
    reasoning_accuracy_reward, think_format_reward
)
accuracy, reasoning, think = accuracy_reward, reasoning_accuracy_reward, think_format_reward
cosine = get_cosine_scaled_reward(max_len=100)
soft = get_soft_overlong_punishment(max_completion_len=100, soft_punish_cache=20)
repetition = get_repetition_penalty_reward(2)
"""
READY_MADE = ("accuracy", "reasoning", "think", "cosine", "soft", "repetition")
FUNCTIONS = ("curriculum", "logs", "ranks", "answers", "reads_anything", "parses", "logs_surrogates", "some")
TEXTS = (r"<think>\n\boxed{7}</think>It is \boxed{\frac{1}{3}}.", r"\boxed{0.5}", "<think>\nso</think>$x^2$")
CHATS = [[{"role": "assistant", "content": text}] for text in TEXTS]
SOLUTIONS = [r"$\frac{1}{3}$", r"$\frac{1}{2}$", "no formula at all"]
IDS = [[1] * 90, [5, 5, 5, 5, 5], [1, 2, 3]]


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("user")
    (folder / "my_rewards.py").write_text(MY_REWARDS)
    (folder / "rewards.yaml").write_text(
        "rewards:\n"
        + "".join(f"  {name}: 'my_rewards:{name}'\n" for name in READY_MADE)
        + "".join(f"  {name}: 'tests.reward_functions:{name}'\n" for name in FUNCTIONS)
        + "  grouped: {kind: function, object: 'tests.reward_functions:ranks_in_groups', scope: group}\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        with running_service(Settings(config=folder / "rewards.yaml", max_request_texts=64)) as url:
            yield url


async def call(url, name, completions, **columns):
    reward = remote_reward(url, name, failure_budget=1.0)
    prompts = columns.pop("prompts", [f"p{index}" for index in range(len(completions))])
    try:
        return await reward(prompts=prompts, completions=completions, **columns)
    finally:
        await reward.client.aclose()


async def test_ready_made_functions(url):
    """Every reward function that TRL exports gives the numbers that it gives in process, and logs the same columns."""
    namespace = {}
    exec(MY_REWARDS, namespace)
    assert {name for name in trl.rewards.__all__ if callable(getattr(trl.rewards, name))} <= set(namespace)
    arguments = {"completion_ids": IDS, "solution": SOLUTIONS}
    for name in READY_MADE:
        here, there = {}, {}
        expected = namespace[name](prompts=["p"] * 3, completions=CHATS, log_extra=here.__setitem__, **arguments)
        assert await call(url, name, CHATS, log_extra=there.__setitem__, **arguments) == expected
        assert there == here
        assert len(set(expected)) > 1, "equality means nothing"
    assert await call(url, "accuracy", CHATS, **arguments) == [1.0, 1.0, None]
    assert await call(url, "soft", CHATS, **arguments) == [-0.5, 0.0, 0.0]


async def test_trainer_state(url):
    """A function that follows the training's progress gets the state of each step."""
    for step in (1, 2):
        state = TrainerState(global_step=step)
        assert await call(url, "curriculum", ["a"], trainer_state=state) == [step]


async def test_logged_values(url):
    """What a function logs reaches TRL's log."""
    metrics, extra = {}, {}
    await call(url, "logs", ["ab", "cd"], log_metric=metrics.__setitem__, log_extra=extra.__setitem__)
    assert (metrics["chars"], extra) == (2.0, {"first": ["a", "c"]})


async def test_missing_scores(url):
    """A None of a function is not applicable, and a NaN is no score: TRL gets None for both."""
    assert await call(url, "some", ["a", "b", "c"]) == [None, None, 1.0]
    with RewardClient(url) as client:
        errors = client.score(["a", "b", "c"], rewards=["some"]).rewards["some"].errors
    assert [error.code for error in errors.values()] == ["not_applicable", "not_finite"]


async def test_logged_surrogates(url):
    """A lone surrogate in what a function logs, which no response can carry, becomes a question mark."""
    metrics, extra = {}, {}
    await call(url, "logs_surrogates", ["a"], log_metric=metrics.__setitem__, log_extra=extra.__setitem__)
    assert (metrics["chars ?"], extra) == (1.0, {"last ?": ["['half an emoji: \\ud83c', nan]"]})


async def test_unread_columns(url):
    """Columns that no reward reads stop nothing, whatever they hold and however they are called."""
    unread = {"created": [datetime.date(2026, 11, 1)], "self": [object()], "nan": [math.nan]}
    assert await call(url, "answers", ["a"], answer=["a"], cases=["x" * 30_000_000], **unread) == [1.0]


async def test_unserializable_column(url):
    """A column that a reward reads and JSON cannot represent is refused by name."""
    with pytest.raises(NotSerializable, match="the column 'created', which a reward reads, cannot be sent"):
        await call(url, "reads_anything", ["a"], created=[datetime.date(2026, 11, 1)])


async def test_compared_completions(url):
    """A reward that compares completions scores whole groups, or refuses a call that does not fit."""
    completions = [["aaa", "a", "aa", "aaaa"][index % 4] for index in range(200)]
    prompts = [f"p{index // 4}" for index in range(200)]
    assert await call(url, "grouped", completions, prompts=prompts) == [2.0, 0.0, 1.0, 3.0] * 50
    assert await call(url, "ranks", completions[:64]) == reward_functions.ranks(completions[:64])
    with pytest.raises(BadRequest, match="200 completions do not fit into one request of at most 64 texts"):
        await call(url, "ranks", completions, prompts=prompts)


def test_reading_changes_with_reload(tmp_path, monkeypatch):
    """A client that knows what a function has read sends what it reads after a reload."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    file, config = tmp_path / "reloaded_rewards.py", tmp_path / "rewards.yaml"
    file.write_text("def judge(completions, first): return first")
    config.write_text("rewards: {judge: 'reloaded_rewards:judge'}")
    with running_service(Settings(config=config, admin_key="the-key-of-the-admin")) as url, RewardClient(url) as client:
        columns = {"first": [1.0], "second": [2.0]}
        assert client.score(["a"], columns=columns).rewards["judge"].scores == [1.0]
        file.write_text("def judge(completions, second): return second")
        httpx.post(f"{url}/admin/reload", headers={"Authorization": "Bearer the-key-of-the-admin"}, timeout=60)
        assert client.score(["a"], columns=columns).rewards["judge"].scores == [2.0]

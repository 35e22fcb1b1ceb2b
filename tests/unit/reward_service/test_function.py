import re

import pytest

from reward_service.config import FunctionSpec
from reward_service.rewards.base import Items
from reward_service.rewards.function import FunctionReward


def answers(completions, answer, **_):
    """Tell whether a completion is the answer; None where there is none."""
    return [None if right is None else float(text == right) for text, right in zip(completions, answer, strict=True)]


async def later(completions, **_):
    return [2.0 for _ in completions]


def short(completions, **_):
    return [1.0]


def reward(name):
    return FunctionReward(name, FunctionSpec(object=f"{__name__}:{name}"))


def items(**columns):
    return Items(completions=["a", "b"], chats=["a", "b"], columns=columns)


async def test_a_trl_reward_function_is_served_unchanged_with_its_columns():
    result = await reward("answers").score(items(answer=["a", None]))
    assert result.scores == [1.0, None]
    assert result.errors[1].code == "not_applicable"


async def test_an_async_function_is_awaited():
    assert (await reward("later").score(items())).scores == [2.0, 2.0]


@pytest.mark.parametrize(("name", "says"), [("answers", "TypeError.*answer"), ("short", "1 scores for 2 texts")])
async def test_a_function_that_fails_scores_nothing_and_says_why(name, says):
    result = await reward(name).score(items())
    assert result.scores == [None, None]
    assert {error.code for error in result.errors.values()} == {"function_failed"}
    assert re.search(says, result.errors[0].message)

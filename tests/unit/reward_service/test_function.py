import asyncio
import functools
import importlib
import math
import re
import threading

import pytest

from reward_service.config import FunctionSpec
from reward_service.errors import ConfigError
from reward_service.rewards.base import Items
from reward_service.rewards.function import THREADS, FunctionReward, revision


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


def test_what_is_no_function_is_refused():
    with pytest.raises(ConfigError, match="'math:pi' is not a function"):
        FunctionReward("pi", FunctionSpec(object="math:pi"))
    with pytest.raises(ConfigError, match="cannot import 'math:tau_of'"):
        FunctionReward("tau", FunctionSpec(object="math:tau_of"))


weighted = functools.partial(answers, answer=["a", "a"])


async def test_a_function_with_arguments_of_its_own_is_another_revision_with_others():
    assert (await reward("weighted").score(items())).scores == [1.0, 0.0]
    told = revision("x", functools.partial(answers, answer=["a"]))
    assert told == revision("x", functools.partial(answers, answer=["a"]))
    assert told != revision("x", functools.partial(answers, answer=["b"]))


def test_a_compiled_function_is_told_by_its_name():
    assert revision("math:floor", math.floor) != revision("math:ceil", math.ceil)


def test_a_function_whose_file_has_changed_is_not_served_under_a_revision_that_is_not_its_own(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "judge_that_changes.py"
    file.write_text("def judge(completions, **_):\n    return [1.0 for _ in completions]\n")
    importlib.invalidate_caches()
    spec = FunctionSpec(object="judge_that_changes:judge")
    assert FunctionReward("judge", spec).info.revision == FunctionReward("judge", spec).info.revision
    file.write_text("def judge(completions, **_):\n    return [2.0 for _ in completions]  # changed\n")
    with pytest.raises(ConfigError, match="start the service again"):
        FunctionReward("judge", spec)


def test_another_function_of_a_file_that_has_changed_is_not_served_either(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "judges_that_change.py"
    both = "def first(completions, **_): return [{0} for _ in completions]\nsecond = first\n"
    file.write_text(both.format(1.0))
    importlib.invalidate_caches()
    FunctionReward("judge", FunctionSpec(object="judges_that_change:first"))
    file.write_text(both.format(22.0))
    with pytest.raises(ConfigError, match="start the service again"):
        FunctionReward("judge", FunctionSpec(object="judges_that_change:second"))


gate = threading.Event()


def hangs(completions, **_):
    assert gate.wait(10)
    return [1.0 for _ in completions]


async def test_of_calls_that_hang_no_more_are_left_behind_than_there_are_threads():
    gate.clear()
    hanging = reward("hangs")
    calls = [asyncio.create_task(hanging.score(items())) for _ in range(3 * THREADS)]
    await asyncio.sleep(0)
    assert hanging.sound
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert not hanging.sound  # nobody would be scored
    assert hanging._threads._work_queue.qsize() == 0
    gate.set()
    assert (await hanging.score(items())).scores == [1.0, 1.0]
    assert hanging.sound

import asyncio
import functools
import importlib
import itertools
import math
import re
import sys
import threading

import pytest

from reward_service.config import FunctionSpec
from reward_service.errors import ConfigError
from reward_service.rewards.base import Items
from reward_service.rewards.function import MAX_CONCURRENT_CALLS, FunctionReward
from reward_service.rewards.function_source import revision


def answers(completions, answer, **_):
    """Return whether a completion is the answer, None if there is none."""
    return [None if right is None else float(text == right) for text, right in zip(completions, answer, strict=True)]


async def later(completions, **_):
    return [2.0 for _ in completions]


class Judge:
    async def __call__(self, completions, **_):
        return [3.0 for _ in completions]


judge = Judge()


def short(completions, **_):
    return [1.0]


def reward(name):
    return FunctionReward(name, FunctionSpec(object=f"{__name__}:{name}"))


def items(**columns):
    return Items(completions=["a", "b"], chats=["a", "b"], columns=columns)


async def test_trl_function():
    """A TRL reward function is served unchanged, with its columns; None means not applicable."""
    result = await reward("answers").score(items(answer=["a", None]))
    assert result.scores == [1.0, None]
    assert result.errors[1].code == "not_applicable"


async def test_async_function():
    """An async function is awaited."""
    assert (await reward("later").score(items())).scores == [2.0, 2.0]


async def test_async_callable():
    """An object with an async `__call__` is awaited."""
    assert (await reward("judge").score(items())).scores == [3.0, 3.0]


entered, gate = threading.Event(), threading.Event()


async def blocks(completions, **_):
    entered.set()
    gate.wait(10)
    return [4.0 for _ in completions]


async def test_blocking_async_function():
    """An async function that blocks delays neither another reward nor the shutdown."""
    entered.clear(), gate.clear()
    blocking = reward("blocks")
    call = asyncio.create_task(blocking.score(items()))
    assert await asyncio.to_thread(entered.wait, 10)
    assert (await reward("later").score(items())).scores == [2.0, 2.0]
    assert not call.done()
    await blocking.stop()
    gate.set()
    assert (await call).scores == [4.0, 4.0]


def long(completions, **_):
    return itertools.repeat(1.0)


def finds_nothing(completions, **_):
    return next(iter(()))


def leaves(completions, **_):
    sys.exit(3)


async def leaves_later(completions, **_):
    sys.exit(3)


async def gives_itself_up(completions, **_):
    raise asyncio.CancelledError


def by_index(completions, **_):
    return dict.fromkeys(range(len(completions)), 0.9)


def digits(completions, **_):
    return "1" * len(completions)


def words(completions, **_):
    return ["1" for _ in completions]


def breaks_off(completions, **_):
    yield 1.0
    raise ValueError("no more")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("answers", "TypeError.*answer"),
        ("short", "it returned 1 scores for 2 texts"),
        ("long", "it returned more than 2 scores for 2 texts"),
        ("finds_nothing", "StopIteration"),
        ("leaves", "SystemExit: 3"),
        ("leaves_later", "SystemExit: 3"),
        ("gives_itself_up", "CancelledError"),
        ("by_index", "it returned a dict, not a list of scores"),
        ("digits", "it returned a str, not a list of scores"),
        ("words", "it returned a str as a score"),
        ("breaks_off", "ValueError: no more"),
    ],
)
async def test_failing_function(name, says):
    """A function that fails in any way scores nothing, and the error has the reason."""
    result = await reward(name).score(items())
    assert result.scores == [None, None]
    assert {error.code for error in result.errors.values()} == {"function_failed"}
    assert re.search(says, result.errors[0].message)


thread_names = []


def one_by_one(completions, **_):
    for _ in completions:
        thread_names.append(threading.current_thread().name)
        yield 1.0


async def test_generator():
    """A generator runs on the function's own thread."""
    assert (await reward("one_by_one").score(items())).scores == [1.0, 1.0]
    assert all(name.startswith("one_by_one") for name in thread_names)


async def test_cancel_async_function():
    """Cancelling a call cancels its async function."""
    begun, ended = threading.Event(), threading.Event()

    async def waits(completions, **_):
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    waiting = reward("later")
    waiting._function = waits
    call = asyncio.create_task(waiting.score(items()))
    assert await asyncio.to_thread(begun.wait, 10)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await asyncio.to_thread(ended.wait, 10)


def test_module_that_exits(tmp_path, monkeypatch):
    """A module that exits on import is a configuration error."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "judge_that_leaves.py").write_text("import sys\nsys.exit('please install foo')\n")
    importlib.invalidate_caches()
    with pytest.raises(ConfigError, match=r"cannot import 'judge_that_leaves:x'.*please install foo"):
        FunctionReward("judge", FunctionSpec(object="judge_that_leaves:x"))


def test_not_a_function():
    """An object that is missing or not callable is a configuration error."""
    with pytest.raises(ConfigError, match="'math:pi' is not a function"):
        FunctionReward("pi", FunctionSpec(object="math:pi"))
    with pytest.raises(ConfigError, match="cannot import 'math:tau_of'"):
        FunctionReward("tau", FunctionSpec(object="math:tau_of"))


weighted = functools.partial(answers, answer=["a", "a"])


async def test_revision_of_partial():
    """The revision covers the arguments that a partial has bound."""
    assert (await reward("weighted").score(items())).scores == [1.0, 0.0]
    digest = revision("x", functools.partial(answers, answer=["a"]))
    assert digest == revision("x", functools.partial(answers, answer=["a"]))
    assert digest != revision("x", functools.partial(answers, answer=["b"]))


class Opaque:
    """An object whose repr has an address."""


def test_revision_is_stable():
    """The revision of bound arguments is the same in every process."""
    digest = [
        revision(
            "x", functools.partial(answers, judge=Opaque(), wanted=wanted, also=[None, True, {"a": b"b"}, (1, 2.5)])
        )
        for wanted in ({"please", "thanks", "sorry"}, {"sorry", "thanks", "please"})
    ]
    assert digest[0] == digest[1]
    assert digest[0] != revision("x", functools.partial(answers, judge=Opaque(), wanted={"please"}, also=[]))


def test_revision_of_builtin():
    """Compiled functions differ in their revisions by name."""
    assert revision("math:floor", math.floor) != revision("math:ceil", math.ceil)


def test_changed_file(tmp_path, monkeypatch):
    """A function whose file has changed since its import is not served."""
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "judge_that_changes.py"
    file.write_text("def judge(completions, **_):\n    return [1.0 for _ in completions]\n")
    importlib.invalidate_caches()
    spec = FunctionSpec(object="judge_that_changes:judge")
    assert FunctionReward("judge", spec).info.revision == FunctionReward("judge", spec).info.revision
    file.write_text("def judge(completions, **_):\n    return [2.0 for _ in completions]  # changed\n")
    with pytest.raises(ConfigError, match="restart the service"):
        FunctionReward("judge", spec)


def test_changed_file_other_function(tmp_path, monkeypatch):
    """Nor is another function of that file."""
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "judges_that_change.py"
    both = "def first(completions, **_): return [{0} for _ in completions]\nsecond = first\n"
    file.write_text(both.format(1.0))
    importlib.invalidate_caches()
    FunctionReward("judge", FunctionSpec(object="judges_that_change:first"))
    file.write_text(both.format(22.0))
    with pytest.raises(ConfigError, match="restart the service"):
        FunctionReward("judge", FunctionSpec(object="judges_that_change:second"))


gate = threading.Event()


def hangs(completions, **_):
    assert gate.wait(10)
    return [1.0 for _ in completions]


async def test_hanging_calls():
    """Abandoned calls occupy at most all threads; then the reward is unhealthy until one ends."""
    gate.clear()
    hanging = reward("hangs")
    calls = [asyncio.create_task(hanging.score(items())) for _ in range(3 * MAX_CONCURRENT_CALLS)]
    await asyncio.sleep(0)
    assert hanging.healthy
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert not hanging.healthy  # no thread is left
    assert hanging._threads._work_queue.qsize() == 0
    gate.set()
    assert (await hanging.score(items())).scores == [1.0, 1.0]
    assert hanging.healthy


def test_changed_import(tmp_path, monkeypatch):
    """A module that another one imported is not served either once its file has changed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    helper = tmp_path / "helper_that_changes.py"
    helper.write_text("def second(completions, **_):\n    return [1.0 for _ in completions]\n")
    (tmp_path / "judge_with_a_helper.py").write_text("from helper_that_changes import second\ndef first(**_): ...\n")
    importlib.invalidate_caches()
    FunctionReward("judge", FunctionSpec(object="judge_with_a_helper:first"))
    helper.write_text("def second(completions, **_):\n    return [2.0 for _ in completions]  # changed\n")
    with pytest.raises(ConfigError, match="restart the service"):
        FunctionReward("judge", FunctionSpec(object="helper_that_changes:second"))


async def test_bound_argument_wins():
    """A column does not replace a bound argument."""
    assert (await reward("weighted").score(items(answer=["b", "b"]))).scores == [1.0, 0.0]


def reverses(completions, answer, seen, **_):
    answer.reverse()
    seen[0].append("more")
    return [0.0 for _ in completions]


async def test_columns_are_copied():
    """A function that changes its columns changes a copy."""
    request = items(answer=["a", "c"], seen=[["x"], ["y"]])
    await reward("reverses").score(request)
    assert request.columns == {"answer": ["a", "c"], "seen": [["x"], ["y"]]}

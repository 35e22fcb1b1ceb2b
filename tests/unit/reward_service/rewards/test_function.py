import asyncio
import contextlib
import math
import re
import threading

import pytest

from reward_service.errors import ConfigError
from reward_service.rewards.base import Items
from reward_service.rewards.function import FunctionReward
from reward_service.rewards.function_threads import MAX_CONCURRENT_CALLS
from reward_service.specs import FunctionSpec

FUNCTIONS = "tests.reward_functions"


@contextlib.asynccontextmanager
async def reward(name, module=FUNCTIONS, **keys):
    served = FunctionReward(name, FunctionSpec(object=f"{module}:{name}", **keys))
    try:
        yield served
    finally:
        await served.stop()


def items(*completions, trainer_state=None, **columns):
    texts = list(completions or ["a", "b"])
    return Items(completions=texts, chats=texts, columns=columns, trainer_state=trainer_state)


@pytest.fixture(params=[True, False], ids=["in_process", "worker"])
def in_process(request):
    return request.param


async def test_trl_function(in_process):
    """A TRL reward function is served unchanged, with its columns; None means not applicable."""
    async with reward("answers", in_process=in_process) as answers:
        result = await answers.score(items(answer=["a", None], unread=[math.nan, object]))
    assert result.scores == [1.0, None]
    assert result.errors[1].code == "not_applicable"
    assert answers.info.description == "Return whether a completion is the answer; None where there is none."


@pytest.mark.parametrize(("name", "score"), [("later", 2.0), ("judge", 3.0)])
async def test_async_function(name, score, in_process):
    """An async function, or an object with an async `__call__`, is awaited."""
    async with reward(name, in_process=in_process) as served:
        assert (await served.score(items())).scores == [score, score]


FAILING = [
    ("answers", "TypeError.*answer"),
    ("short", "it returned 1 scores for 2 texts"),
    ("long", "it returned more than 2 scores for 2 texts"),
    ("finds_nothing", "StopIteration"),
    ("leaves", "SystemExit: 3"),
    ("leaves_later", "SystemExit: 3"),
    ("gives_itself_up", "CancelledError"),
    ("by_index", "it returned a dict, not a list with one number"),
    ("digits", "it returned a str, not a list with one number"),
    ("words", "it returned a str as a score"),
    ("breaks_off", "ValueError: no more"),
    ("returns_nothing", "it returned nothing, not a list with one number"),
    ("nested", "it returned a list as a score"),
    ("hidden_async", "it returned a coroutine, not a list with one number"),
    ("has_no_words", "failed: Unsayable$"),
]


@pytest.mark.parametrize(("name", "message"), FAILING)
async def test_failing_function(name, message):
    """A function that fails in any way scores nothing, and the error has the reason."""
    async with reward(name, in_process=True) as served:
        result = await served.score(items())
    assert result.scores == [None, None]
    assert {error.code for error in result.errors.values()} == {"function_failed"}
    assert re.search(message, result.errors[0].message)


async def test_generator(in_process):
    """A generator runs where the function does: on a thread of its own, or on a worker's main thread."""
    async with reward("one_by_one", in_process=in_process) as served:
        assert (await served.score(items())).scores == [float(not in_process)] * 2


async def test_bound_argument_wins(in_process):
    """A column does not replace a bound argument."""
    async with reward("weighted", in_process=in_process) as served:
        assert (await served.score(items(answer=["b", "b"]))).scores == [1.0, 0.0]
        assert served.info.columns == []


async def test_columns_are_copied():
    """A function that changes its columns changes a copy."""
    given = items(answer=["a", "c"], seen=[["x"], ["y"]])
    async with reward("reverses", in_process=True) as served:
        await served.score(given)
    assert given.columns == {"answer": ["a", "c"], "seen": [["x"], ["y"]]}


async def test_independent_rows(in_process):
    """Where rows are independent, a row that raises costs only itself, and is tried with columns as they came."""
    async with reward("changes_and_parses", rows="independent", in_process=in_process) as served:
        result = await served.score(items("1", "2", "three", "4", answer=[1, 2, 3, 4]))
    assert result.scores == [2.0, 4.0, None, 8.0]
    assert "ValueError" in result.errors[2].message


async def test_dependent_rows():
    """Where they are not, no part of a call is tried alone."""
    async with reward("parses", in_process=True) as served:
        assert (await served.score(items("1", "x"))).scores == [None, None]


async def test_range(in_process):
    """A score outside the configured range is an error of its item."""
    async with reward("fifty", range=(0, 1), in_process=in_process) as served:
        result = await served.score(items())
    assert result.scores == [None, 0.5]
    assert result.errors[0].code == "out_of_range"
    assert "returned 50, outside its range [0, 1]" in result.errors[0].message


async def test_logged_values(in_process):
    """What a function logs comes back with the scores: the mean of a metric, one extra value a row."""
    async with reward("logs", rows="independent", in_process=in_process) as served:
        result = await served.score(items("ab", "cd"))
    assert (result.metrics, result.extra) == ({"chars": 2.0}, {"first": ["a", "c"]})


async def test_trainer_state(in_process):
    """The trainer's state has attributes, as in TRL; a call without it fails with the argument's name."""
    async with reward("curriculum", in_process=in_process) as served:
        assert served.info.columns == ["trainer_state"]
        assert (await served.score(items(trainer_state={"global_step": 7}))).scores == [7.0, 7.0]
        assert "trainer_state" in (await served.score(items())).errors[0].message


@pytest.mark.parametrize(
    ("name", "columns", "reads_prompts"),
    [
        ("answers", ["answer"], False),
        ("strict", [], True),
        ("reads_keys", ["a", "b"], False),
        ("reads_anything", None, True),
        ("decorated", ["solution"], False),
        ("judge", [], False),
    ],
)
async def test_columns_read(name, columns, reads_prompts):
    """The columns that a function reads are those of its signature, and the keys that it reads of its keywords."""
    async with reward(name, in_process=True) as served:
        assert (served.info.columns, served.info.reads_prompts) == (columns, reads_prompts)


async def test_configured_columns():
    """The configuration can name them, where the source does not tell."""
    async with reward("reads_anything", columns=["a"], in_process=True) as served:
        assert served.info.columns == ["a"]
        assert (await served.score(items(a=[1, 2], b=[1, 2]))).scores == [4.0, 4.0]  # with TRL's three


async def test_no_keywords():
    """A function without `**kwargs` gets the arguments that it names and no others."""
    prompts = ["abc", "d"]
    given = Items(completions=["a", "b"], chats=["a", "b"], prompt_chats=prompts, columns={"x": [1, 2]})
    async with reward("strict", in_process=True) as served:
        assert (await served.score(given)).scores == [3.0, 1.0]


def test_module_that_exits(tmp_path, monkeypatch, in_process):
    """A module that exits on import is a configuration error."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "judge_that_leaves.py").write_text("import sys\nsys.exit('please install foo')\n")
    spec = FunctionSpec(object="judge_that_leaves:x", in_process=in_process)
    with pytest.raises(ConfigError, match=r"rewards.judge: cannot import 'judge_that_leaves:x'.*please install foo"):
        FunctionReward("judge", spec)


@pytest.mark.parametrize(("name", "message"), [("pi", "'math:pi' is not a function"), ("x", "cannot import 'math:x'")])
def test_not_a_function(name, message, in_process):
    """An object that is missing or not callable is a configuration error."""
    with pytest.raises(ConfigError, match=message):
        FunctionReward("pi", FunctionSpec(object=f"math:{name}", in_process=in_process))


@pytest.mark.parametrize(("name", "kind"), [("Judge", "a class"), ("Judge.method", "a method of a class")])
def test_no_object(name, kind):
    """A class, or a method without its object, is a configuration error that says what to name instead."""
    with pytest.raises(ConfigError, match=rf"is {kind}, .* such as judge = Judge\(\), and name that"):
        FunctionReward("judge", FunctionSpec(object=f"{FUNCTIONS}:{name}", in_process=True))


gate, entered, ended = threading.Event(), threading.Event(), threading.Event()


def hangs(completions, **_):
    assert gate.wait(10)
    return [1.0 for _ in completions]


async def blocks(completions, **_):
    entered.set()
    gate.wait(10)
    return [4.0 for _ in completions]


async def sleeps(completions, **_):
    entered.set()
    try:
        await asyncio.sleep(60)
    finally:
        ended.set()


async def test_hanging_calls():
    """In process, abandoned calls occupy at most all threads; then the reward is unhealthy until one ends."""
    gate.clear()
    async with reward("hangs", __name__, in_process=True) as hanging:
        calls = [asyncio.create_task(hanging.score(items())) for _ in range(3 * MAX_CONCURRENT_CALLS)]
        await asyncio.sleep(0)
        assert hanging.healthy
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        assert not hanging.healthy  # no thread is left
        gate.set()
        assert (await hanging.score(items())).scores == [1.0, 1.0]
        assert hanging.healthy


async def test_blocking_async_function():
    """In process, an async function that blocks delays neither another reward nor the shutdown."""
    entered.clear(), gate.clear()
    async with reward("blocks", __name__, in_process=True) as blocking, reward("later", in_process=True) as later:
        call = asyncio.create_task(blocking.score(items()))
        assert await asyncio.to_thread(entered.wait, 10)
        assert (await later.score(items())).scores == [2.0, 2.0]
        assert not call.done()
    gate.set()
    assert (await call).scores == [4.0, 4.0]


async def test_cancel_async_function():
    """In process, cancelling a call cancels its async function."""
    entered.clear(), ended.clear()
    async with reward("sleeps", __name__, in_process=True) as sleeping:
        call = asyncio.create_task(sleeping.score(items()))
        assert await asyncio.to_thread(entered.wait, 10)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await asyncio.to_thread(ended.wait, 10)

"""Function rewards in worker processes: what a function does is no harm to the service."""

import asyncio
import contextlib
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from remote_rewards import RewardClient
from reward_service.errors import ConfigError, Draining
from reward_service.rewards import function_process
from reward_service.rewards.base import Items
from reward_service.rewards.function import FunctionReward
from reward_service.specs import FunctionSpec
from tests.conftest import wait_for
from tests.soak.supervisor import Supervisor


@contextlib.asynccontextmanager
async def reward(name, module="tests.reward_functions", **keys):
    served = FunctionReward(name, FunctionSpec(object=f"{module}:{name}", **keys))
    try:
        yield served
    finally:
        await served.stop()


def items(*texts, **fields):
    return Items(completions=texts, chats=texts, **fields)


def codes(result):
    return [result.errors[row].code if row in result.errors else None for row in range(len(result.scores))]


HANGING = [("backtracks", "a" * 40 + "!"), ("powers", "bad"), ("loops", "bad"), ("blocks", "bad"), ("waits", "bad")]


@pytest.mark.parametrize(("name", "bad"), HANGING)
async def test_hanging_row(name, bad):
    """A row on which a function never returns costs itself alone, and the event loop goes on meanwhile."""
    async with reward(name, rows="independent", timeout_s=0.4) as served:
        call = asyncio.create_task(served.score(items("aab", bad, "aab", "aab")))
        ticks = 0
        while not call.done():
            await asyncio.sleep(0.01)
            ticks += 1
        result = await call
        assert ticks > 10
        assert (result.scores, codes(result)) == ([1.0, None, 1.0, 1.0], [None, "function_timeout", None, None])
        assert (await served.score(items("aab"))).scores == [1.0]


async def test_hanging_call():
    """A call whose rows depend on each other costs all of them; the next call has a new worker."""
    async with reward("loops", timeout_s=0.4) as served:
        result = await served.score(items("good", "bad"))
        assert codes(result) == ["function_timeout"] * 2
        assert "did not return within 0.4 s; raise timeout_s" in result.errors[0].message
        assert (await served.score(items("good"))).scores == [1.0]


async def test_hanging_rows_and_deadline():
    """However many rows hang, a request is answered within its deadline."""
    async with reward("loops", rows="independent", workers=4) as served:
        started_s = time.monotonic()
        result = await served.score(items("bad", "good", "bad", deadline_s=started_s + 8))
        assert time.monotonic() < started_s + 8
    assert result.scores == [None, 1.0, None]


async def test_slow_start_and_deadline(tmp_path, monkeypatch):
    """Rows that wait for a worker process to start fail before the deadline of their request."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "starts_slowly.py").write_text(
        "import pathlib, time\n"
        f"started = pathlib.Path({str(tmp_path)!r}) / 'started'\n"
        "if started.exists(): time.sleep(60)\n"
        "started.touch()\n"
        "def loops(completions, **_):\n"
        "    while 'bad' in completions: pass\n"
        "    return [1.0 for _ in completions]\n"
    )
    async with reward("loops", module="starts_slowly", rows="independent", workers=1) as served:
        deadline_s = time.monotonic() + 3
        result = await served.score(items("bad", "good", deadline_s=deadline_s))
        assert time.monotonic() < deadline_s
    assert codes(result) == ["function_timeout"] * 2
    assert "no worker process was free" in result.errors[1].message


@pytest.mark.parametrize(("keys", "scores"), [({}, [None] * 3), ({"rows": "independent"}, [1.0, None, 1.0])])
async def test_ending_worker(keys, scores):
    """A function that ends its process costs its call's rows, or its own row where rows are independent."""
    async with reward("ends", **keys) as served:
        result = await served.score(items("good", "bad", "good"))
        assert result.scores == scores
        assert "its worker process ended with exit code 3" in result.errors[1].message
        assert (await served.score(items("good"))).scores == [1.0]


async def test_forked_children(capfd):
    """A function may fork: its children end as programs do, and its parent alone answers."""
    async with reward("forks", rows="independent") as served:
        assert (await served.score(items("0", "3", "raises", "returns"))).scores == [0.0, 3.0, 1.0, 0.0]
        assert (await served.score(items("0"))).scores == [0.0]
    assert "ValueError: raises" in capfd.readouterr().err


async def test_stopped_loop():
    """An async function that stops its event loop costs every row of its call, and the next call has a new worker."""
    async with reward("stops_its_loop") as served:
        for _ in range(2):
            result = await served.score(items("a", "b", "c"))
            assert codes(result) == ["function_failed"] * 3


async def test_killed_worker():
    """A worker that is killed, as the kernel does when memory is short, is replaced."""
    async with reward("process_id") as served:
        first = (await served.score(items("a"))).scores[0]
        os.kill(int(first), signal.SIGKILL)
        second = (await served.score(items("a"))).scores[0]
        third = (await served.score(items("a"))).scores[0]
        assert first != third
        assert second in (None, third)


async def test_abandoned_call():
    """A call whose caller has left goes on until the limit; then its worker serves again."""
    async with reward("loops", timeout_s=0.5, workers=1) as served:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await served.score(items("bad"))
        assert (await served.score(items("good"))).scores == [1.0]


async def test_overlapping_calls():
    """Calls that overlap get workers of their own, up to the configured number."""
    async with reward("loops", timeout_s=0.4, workers=2) as served:
        bad = asyncio.create_task(served.score(items("bad")))
        await asyncio.sleep(0)
        assert (await served.score(items("good"))).scores == [1.0]
        assert codes(await bad) == ["function_timeout"]


async def test_cancelled_async_call():
    """Cancelling a call cancels its async function, and its worker serves on."""
    async with reward("waits", timeout_s=60, workers=1) as served:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await served.score(items("bad"))
        assert (await served.score(items("good"))).scores == [1.0]


async def test_signals_and_prints(capfd):
    """Signals work, and what a function prints is in the service's log."""
    async with reward("alarms") as alarms, reward("prints") as prints:
        assert (await alarms.score(items("a"))).scores == [1.0]
        assert (await prints.score(items("a"))).scores == [1.0]
    assert "printed by a reward function" in capfd.readouterr().err


async def test_stopped_workers():
    """Stopping a reward ends its workers."""
    async with reward("process_id") as served:
        (worker,) = (await served.score(items("a"))).scores
    with pytest.raises(ProcessLookupError):
        os.kill(int(worker), 0)


@pytest.mark.parametrize("keys", [{}, {"rows": "independent"}])
async def test_stop_during_calls(keys):
    """Calls that a stop meets, running or waiting for a worker, can be retried at another replica."""
    async with reward("loops", workers=1, **keys) as served:
        calls = [asyncio.create_task(served.score(items("bad", "bad"))) for _ in range(2)]
        await asyncio.sleep(0)
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Draining] * 2


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import os; os._exit(4)", "its worker process ended with exit code 4"),
        ("import a_module_that_is_missing", "No module named 'a_module_that_is_missing'"),
        ("while True: pass", "takes more than 1 s"),
    ],
)
def test_failing_import(tmp_path, monkeypatch, source, message):
    """A module that cannot be imported is a configuration error with the reason."""
    monkeypatch.setattr(function_process, "START_TIMEOUT_S", 1.0)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "not_importable.py").write_text(source)
    with pytest.raises(ConfigError, match=f"rewards.judge: .*{message}"):
        FunctionReward("judge", FunctionSpec(object="not_importable:judge"))


async def test_edited_file(tmp_path, monkeypatch):
    """A worker that would import another source than the first one is not used; a reload serves the new source."""
    monkeypatch.syspath_prepend(tmp_path)
    file, source = tmp_path / "edited.py", "import os\ndef judge(completions, **_):\n    {}\n    return [1.0]\n"
    file.write_text(source.format("if completions == ['bad']: os._exit(1)"))
    async with reward("judge", "edited") as served:
        file.write_text(source.format("pass"))
        assert (await served.score(items("good"))).scores == [1.0]
        assert codes(await served.score(items("bad"))) == ["function_failed"]
        result = await served.score(items("good"))
        assert "has changed since its import: reload" in result.errors[0].message
    async with reward("judge", "edited") as reloaded:
        assert reloaded.info.revision != served.info.revision
        assert (await reloaded.score(items("bad"))).scores == [1.0]


HUNG = "rewards: {powers: {kind: function, object: 'tests.reward_functions:powers'}, "
HUNG += "process: {kind: function, object: 'tests.reward_functions:process_id'}}"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_hung_function_and_service(tmp_path, number):
    """While a function holds its interpreter, the service scores, reports and ends, and leaves no process behind."""
    config = tmp_path / "rewards.yaml"
    config.write_text(HUNG)
    body = {"completions": ["bad"], "rewards": ["powers"]}
    with Supervisor(config, REWARD_SERVICE_SHUTDOWN_TIMEOUT_S="1") as service, ThreadPoolExecutor() as threads:
        service.wait_until_ready()
        threads.submit(httpx.post, f"{service.url}/v1/score", json=body, timeout=60)
        workers = children(service.pid)
        wait_for(lambda: any(cpu_s(worker) > 1 for worker in workers))
        with RewardClient(service.url) as client:
            assert client.score(["a"], rewards=["process"]).rewards["process"].scores[0] in map(float, workers)
        assert httpx.get(f"{service.url}/health/ready").status_code == 200
        assert httpx.get(f"{service.url}/metrics").status_code == 200
        service.send_signal(number)
        assert service.process.wait(20) == (0 if number == signal.SIGTERM else -9)
        wait_for(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))


def children(pid):
    threads = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for thread in threads for child in thread.read_text().split()]


def cpu_s(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

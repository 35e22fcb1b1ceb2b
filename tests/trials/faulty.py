"""Kills, faults, reloads, drains, slow callers, callers that leave."""

import asyncio
import contextlib
import itertools
import random
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import httpx

from shared import RewardClient
from tests import faults
from tests.trials.base import (
    RULES,
    Going,
    Outcome,
    Tally,
    calling,
    compare,
    for_seconds,
    numbered,
    plain_http,
    quantile,
    resident_mb,
    right,
)
from tests.trials.supervisor import Supervisor


def many_callers(clients: int, requests: int) -> Outcome:
    """T2: every text gets its own score, whoever else asks at the same time."""
    tally = Tally()

    async def run(url: str) -> None:
        client, left = RewardClient(url), [requests] * clients

        def going(index: int) -> bool:
            left[index] -= 1
            return left[index] >= 0

        work = (
            calling(client, tally, lambda index=index: going(index), most=64, seed=index)  # type: ignore[misc]
            for index in range(clients)
        )
        await asyncio.gather(*work)
        await client.aclose()

    with Supervisor(RULES) as service:
        asyncio.run(run(service.url))
    return Outcome("T2 order and identity", f"{clients} callers, {tally.texts:,} texts", tally.lost).settle()


def kills(seconds: float, every_s: float = 5.0, callers: int = 8) -> Outcome:
    """T6: the service is killed every few seconds, and started again."""
    tally, deaths, recoveries = Tally(), [0], []

    async def kill_now_and_then(service: Supervisor, going: Going) -> None:
        while True:
            await asyncio.sleep(every_s)
            if not going():
                return
            await asyncio.to_thread(service.kill)
            deaths[0] += 1
            await asyncio.to_thread(service.wait_until_ready)
            ready_s, before = time.monotonic(), len(tally.latencies_s)
            await until(lambda before=before: len(tally.latencies_s) > before)  # type: ignore[misc]
            recoveries.append(time.monotonic() - ready_s)

    async def run(service: Supervisor) -> int:
        client, going = RewardClient(service.url, timeout_s=60), for_seconds(seconds)
        killing = asyncio.create_task(kill_now_and_then(service, going))
        await asyncio.gather(*(calling(client, tally, going, most=32, seed=index) for index in range(callers)))
        await killing
        await client.aclose()
        return client.retries

    with Supervisor(RULES) as service:
        retries = asyncio.run(run(service))
    outcome = Outcome("T6 kill -9", f"killed {deaths[0]} times, {callers} callers, {tally.calls:,} calls", tally.lost)
    outcome.expect("recovery after ready", max(recoveries), 2.0, " s", timed=True)
    outcome.expect("attempts beyond one a call", retries, 0.2 * tally.calls + 40 * deaths[0])
    return outcome.settle()


def random_faults(requests: int, share: float = 0.2, callers: int = 8) -> Outcome:
    """T8: a fifth of all answers is spoilt on the way."""
    kinds = [faults.reset_at(0), faults.reset_at(120), faults.closed_at(200), faults.status(502), faults.body("{oops")]
    chance = random.Random(8)

    def spoilt() -> Iterator[faults.Fault | None]:
        while True:
            yield chance.choice(kinds) if chance.random() < share else None

    tally, left = Tally(), iter(range(requests))

    async def run(url: str) -> None:
        client = RewardClient(url, timeout_s=60)
        going = lambda: next(left, None) is not None  # noqa: E731 - a name for what follows
        await asyncio.gather(*(calling(client, tally, going, most=4, seed=index) for index in range(callers)))
        await client.aclose()

    with Supervisor(RULES) as service, faults.spoiling(service.url, every=spoilt()) as (url, proxy):
        asyncio.run(run(url))
    outcome = Outcome("T8 random faults", f"{tally.calls:,} calls, {share:.0%} of answers spoilt", tally.lost)
    outcome.expect("attempts a call", proxy.scored / tally.calls, 1.3)
    return outcome.settle()


def nothing_but_faults(seconds: float, callers: int = 32) -> Outcome:
    """T8: nothing comes through at all; the callers must not keep the service down."""
    always: Iterator[faults.Fault | None] = itertools.repeat(faults.status(500))
    tally = Tally()

    async def run(url: str, proxy: faults.FaultProxy) -> int:
        client, going = RewardClient(url, timeout_s=seconds), for_seconds(0.5)
        work = [asyncio.create_task(calling(client, tally, going, most=4, seed=index)) for index in range(callers)]
        await asyncio.sleep(seconds * 0.6)
        before = proxy.scored
        await asyncio.gather(*work)
        await client.aclose()
        return proxy.scored - before

    with Supervisor(RULES) as service, faults.spoiling(service.url, every=always) as (url, proxy):
        late = asyncio.run(run(url, proxy))
    invented = tally.texts
    outcome = Outcome("T8 nothing but faults", f"{callers} callers for {seconds:g} s", invented)
    outcome.expect("attempts a second once it is known", late / (seconds * 0.4), 0.1 * callers)
    return outcome.settle()


def reloads(times: int, callers: int = 4) -> Outcome:
    """T9: the configuration is changed and reloaded under load, once to something that cannot be loaded."""
    tally, mixed = Tally(), [0]
    folder = Path(tempfile.mkdtemp())
    config = folder / "rewards.yaml"

    def write(weight: int) -> None:
        spec = f"{{kind: composite, parts: {{banana: {{weight: {weight}}}}}}}"
        config.write_text(f"rewards: {{banana: {{kind: rule, function: banana}}, scaled: {spec}}}")

    async def ask(client: httpx.AsyncClient, url: str, going: Going, seed: int) -> None:
        chance, serials = random.Random(seed), itertools.count(seed * 1_000_000)
        while going():
            texts = [numbered(next(serials), chance) for _ in range(16)]
            tally.calls += 1
            answer = await client.post(f"{url}/v1/score", json={"completions": texts, "rewards": ["banana", "scaled"]})
            if answer.status_code != 200:
                tally.failed += 1
                continue
            rewards = answer.json()["rewards"]
            compare(rewards["banana"]["scores"], texts, tally)
            weights = {round(s / right(t), 6) for s, t in zip(rewards["scaled"]["scores"], texts, strict=True)}
            known = weight_of.setdefault(rewards["scaled"]["revision"], weights)
            mixed[0] += weights != known or len(weights) != 1

    weight_of: dict[str, set[float]] = {}

    async def run(service: Supervisor) -> None:
        over = [False]
        async with plain_http() as client:
            asking = [
                asyncio.create_task(ask(client, service.url, lambda: not over[0], seed)) for seed in range(callers)
            ]
            for round_ in range(times):
                await asyncio.to_thread(write, 2 + round_ % 2)
                await asyncio.to_thread(reloaded, service)
            config.write_text("rewards: {banana: {kind: rule, function: bananna}}")
            await asyncio.to_thread(reloaded, service, "not reloaded")
            await asyncio.sleep(0.2)
            over[0] = True
            await asyncio.gather(*asking)

    write(1)
    with Supervisor(config) as service:
        asyncio.run(run(service))
        assert service.health() == 200
    shutil.rmtree(folder)
    outcome = Outcome("T9 reloads", f"{times} reloads and a failed one, {tally.calls:,} calls", tally.lost + mixed[0])
    outcome.figures["revisions seen"] = str(len(weight_of))
    return outcome.settle()


def reloaded(service: Supervisor, says: str = "reloaded after") -> None:
    """Tell a service to reload and wait until it says that it has."""
    before = len(re.findall(says, service.log))
    service.tell(signal.SIGHUP)
    end_s = time.monotonic() + 60
    while len(re.findall(says, service.log)) == before:
        assert time.monotonic() < end_s, service.log[-2000:]
        time.sleep(0.01)


def reloaded_models(times: int) -> Outcome:
    """T9: a model is loaded beside itself again and again; memory comes back."""
    folder = Path(tempfile.mkdtemp())
    config = folder / "rewards.yaml"
    config.write_text("rewards: {valence: {kind: regressor, model: 'embedded:valence', last_chars: 512}}")
    with Supervisor(config, "--backend", "torch", "--dtype", "float32") as service:
        for _ in range(3):  # the first ones fill the allocator's pools
            reloaded(service)
        time.sleep(0.5)
        before_mb = resident_mb(service.pid)
        for _ in range(times):
            reloaded(service)
        time.sleep(0.5)
        grown = resident_mb(service.pid) / before_mb - 1
    shutil.rmtree(folder)
    outcome = Outcome("T9 reloads of a model", f"{times} reloads")
    outcome.expect("resident memory grown by", 100 * grown, 5.0, " %")
    return outcome.settle()


SLOW = """
import time
def slow(completions, columns_id=None, **columns):
    with open("begun", "a") as file:
        file.writelines(f"{text}\\n" for text in completions)
    time.sleep(0.2)
    return [1.0 for _ in completions]
"""


def drains(times: int, callers: int = 8) -> Outcome:
    """T10: SIGTERM under load; what was begun is answered, and readiness turns at once."""
    folder = Path(tempfile.mkdtemp())
    (folder / "slow.py").write_text(SLOW)
    (folder / "rewards.yaml").write_text('rewards: {slow: "slow:slow"}')
    lost, unready_s, codes, begun = 0, [], set(), 0

    async def ask(client: httpx.AsyncClient, url: str, index: int, answered: set[str]) -> None:
        for serial in itertools.count():
            text = f"{index}-{serial}"
            try:
                answer = await client.post(f"{url}/v1/score", json={"completions": [text]})
            except httpx.HTTPError:
                return
            if answer.status_code != 200:
                return
            answered.add(text)

    async def drain(service: Supervisor) -> tuple[set[str], float]:
        answered: set[str] = set()
        async with plain_http() as client, plain_http() as watching:
            await watching.get(f"{service.url}/health/ready")
            asking = [asyncio.create_task(ask(client, service.url, index, answered)) for index in range(callers)]
            await asyncio.sleep(0.5)
            service.tell(signal.SIGTERM)
            told_s = time.monotonic()
            await until_unready(watching, service.url)
            turned_s = time.monotonic() - told_s
            await asyncio.gather(*asking)
        return answered, turned_s

    with Supervisor(folder / "rewards.yaml", cwd=folder) as service:
        for _ in range(times):
            service.wait_until_ready()
            answered, turned_s = asyncio.run(drain(service))
            codes.add(service.process.wait(timeout=40))
            started = set((folder / "begun").read_text().split())
            (folder / "begun").unlink()
            begun, lost = begun + len(started), lost + len(started - answered)
            unready_s.append(turned_s)
            service.start()
    shutil.rmtree(folder)
    outcome = Outcome("T10 drains", f"{times} times SIGTERM under load, {begun:,} texts begun", lost)
    outcome.expect("not ready within", 1000 * max(unready_s), 100, " ms", timed=True)
    outcome.expect("worst exit code", max(map(abs, codes)), 0)
    return outcome.settle()


async def until_unready(client: httpx.AsyncClient, url: str) -> None:
    """Wait until a service does not say that it is ready any more, or takes no connection."""
    with contextlib.suppress(httpx.HTTPError):
        while (await client.get(f"{url}/health/ready")).status_code == 200:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.002)


async def until(holds: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Wait until something holds, or too long."""
    end_s = time.monotonic() + timeout_s
    while not holds() and time.monotonic() < end_s:  # noqa: ASYNC110 - nothing tells of it
        await asyncio.sleep(0.01)


def slow_callers(connections: int, seconds: float) -> Outcome:
    """T11: many connections that send one byte a second; what others wait must not double."""

    async def drip(port: int, going: Going) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        for byte in itertools.cycle(b"POST /v1/score HTTP/1.1\r\nX: "):
            if not going():
                break
            writer.write(bytes([byte]))
            await asyncio.sleep(1.0)
        writer.close()

    async def p99_ms(url: str, tally: Tally) -> float:
        client = RewardClient(url)
        await asyncio.gather(*(calling(client, tally, for_seconds(seconds), most=8, seed=seed) for seed in range(4)))
        await client.aclose()
        return 1000 * quantile(tally.latencies_s, 0.99)

    async def run(service: Supervisor) -> float:
        await p99_ms(service.url, Tally())  # warm
        ratios = []
        for _ in range(3):
            alone_ms, over = await p99_ms(service.url, Tally()), [False]
            slow = [asyncio.create_task(drip(service.port, lambda over=over: not over[0])) for _ in range(connections)]
            await asyncio.sleep(0.2)
            ratios.append(await p99_ms(service.url, tally) / alone_ms)
            over[0] = True
            await asyncio.gather(*slow)
        return median(ratios)

    tally = Tally()
    with Supervisor(RULES) as service:
        ratio = asyncio.run(run(service))
    outcome = Outcome(
        "T11 slow callers", f"{connections} connections, a byte a second; {tally.calls:,} calls", tally.lost
    )
    outcome.expect("p99 beside them / alone", ratio, 2.0, timed=True)
    return outcome.settle()

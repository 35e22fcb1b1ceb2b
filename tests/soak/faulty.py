"""Many callers, kills, faults on the wire, slow callers."""

import asyncio
import itertools
import random
import time
from collections.abc import Callable, Iterator
from statistics import median

from remote_rewards import RewardClient
from tests import faults
from tests.soak.base import RULES, Going, Outcome, Tally, calling, for_seconds, quantile
from tests.soak.supervisor import Supervisor


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
    always: Iterator[faults.Fault | None] = itertools.repeat(faults.status(502))
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

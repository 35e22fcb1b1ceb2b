"""Failures between the client and the service: killed processes, and faults injected into responses."""

import asyncio
import itertools
import random
import time
from collections.abc import Callable, Iterator

from remote_rewards import RewardClient
from tests import faults
from tests.soak.base import RULES, Condition, Outcome, Tally, call_repeatedly, for_seconds
from tests.soak.supervisor import Supervisor


def service_kills(seconds: float, every_s: float = 5.0, callers: int = 8) -> Outcome:
    """Kill and restart the service every few seconds: calls are retried, and resume soon after it is ready."""
    tally, kills, recoveries_s = Tally(), [0], []

    async def kill_repeatedly(service: Supervisor, active: Condition) -> None:
        while True:
            await asyncio.sleep(every_s)
            if not active():
                return
            await asyncio.to_thread(service.kill)
            kills[0] += 1
            await asyncio.to_thread(service.wait_until_ready)
            ready_s, before = time.monotonic(), len(tally.latencies_s)
            await wait_until(lambda before=before: len(tally.latencies_s) > before)  # type: ignore[misc]
            recoveries_s.append(time.monotonic() - ready_s)

    async def run(service: Supervisor) -> int:
        client, active = RewardClient(service.url, timeout_s=60), for_seconds(seconds)
        killer = asyncio.create_task(kill_repeatedly(service, active))
        calls = (call_repeatedly(client, tally, active, max_texts=32, seed=seed) for seed in range(callers))
        await asyncio.gather(*calls)
        await killer
        await client.aclose()
        return client.retries

    with Supervisor(RULES) as service:
        retries = asyncio.run(run(service))
    outcome = Outcome(f"killed {kills[0]} times, {callers} callers, {tally.calls:,} calls", tally.lost)
    outcome.expect("recovery after ready", max(recoveries_s), 2.0, " s", timed=True)
    outcome.expect("retries", retries, 0.2 * tally.calls + 40 * kills[0])
    return outcome


async def wait_until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Wait until a condition holds, or the timeout has passed."""
    deadline_s = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline_s:  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(0.01)


def random_faults(requests: int, share: float = 0.2, callers: int = 8) -> Outcome:
    """Inject a fault into a share of all responses: every call still returns the right scores."""
    kinds = [faults.reset_at(0), faults.reset_at(120), faults.closed_at(200), faults.status(502), faults.body("{oops")]
    rng = random.Random(8)

    def draw_faults() -> Iterator[faults.Fault | None]:
        while True:
            yield rng.choice(kinds) if rng.random() < share else None

    tally, remaining = Tally(), iter(range(requests))

    async def run(url: str) -> None:
        client = RewardClient(url, timeout_s=60)

        def active() -> bool:
            return next(remaining, None) is not None

        await asyncio.gather(
            *(call_repeatedly(client, tally, active, max_texts=4, seed=seed) for seed in range(callers))
        )
        await client.aclose()

    with Supervisor(RULES) as service, faults.fault_proxy(service.url, schedule=draw_faults()) as (url, proxy):
        asyncio.run(run(url))
    outcome = Outcome(f"{tally.calls:,} calls, faults in {share:.0%} of responses", tally.lost)
    outcome.expect("attempts per call", proxy.scored / tally.calls, 1.3)
    return outcome


def permanent_faults(seconds: float, callers: int = 32) -> Outcome:
    """Inject a fault into every response: no score is returned, and retries do not overload the service."""
    always: Iterator[faults.Fault | None] = itertools.repeat(faults.status(502))
    tally = Tally()

    async def run(url: str, proxy: faults.FaultProxy) -> int:
        client, active = RewardClient(url, timeout_s=seconds), for_seconds(0.5)
        calls = [
            asyncio.create_task(call_repeatedly(client, tally, active, max_texts=4, seed=seed))
            for seed in range(callers)
        ]
        await asyncio.sleep(seconds * 0.6)
        before = proxy.scored
        await asyncio.gather(*calls)
        await client.aclose()
        return proxy.scored - before

    with Supervisor(RULES) as service, faults.fault_proxy(service.url, schedule=always) as (url, proxy):
        late_attempts = asyncio.run(run(url, proxy))
    invented = tally.texts
    outcome = Outcome(f"{callers} callers for {seconds:g} s", invented)
    outcome.expect("attempts per second in the last two fifths", late_attempts / (seconds * 0.4), 0.1 * callers)
    return outcome

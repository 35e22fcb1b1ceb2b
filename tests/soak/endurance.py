"""Very many texts or calls, or a long time: what grows of memory, open files and tasks."""

import asyncio
import itertools
import random
import time
from collections.abc import Iterator

import psutil

from remote_rewards import RewardClient
from tests import faults
from tests.soak.base import (
    DATA,
    RULES,
    Condition,
    Outcome,
    Tally,
    call_repeatedly,
    for_seconds,
    min_resident_mb,
    plain_http,
    resident_mb,
    unique_text,
)
from tests.soak.reloads import reload_service
from tests.soak.supervisor import Supervisor


def many_texts(texts: int, callers: int = 4) -> Outcome:
    """Score very many texts: the service's memory and open files do not grow."""
    tally = Tally()

    async def score(url: str, count: int, seed: int) -> None:
        async with plain_http() as client:
            rng, serials = random.Random(seed), itertools.count(seed * 10**9)
            for _ in range(count // (256 * callers)):
                batch = [unique_text(next(serials), rng) for _ in range(256)]
                response = await client.post(f"{url}/v1/score", json={"completions": batch})
                tally.check(response.json()["rewards"]["banana"]["scores"], batch)

    async def run(url: str, count: int, round_: int) -> None:
        await asyncio.gather(*(score(url, count, 100 * round_ + index) for index in range(callers)))

    with Supervisor(RULES) as service:
        asyncio.run(run(service.url, min(20_000, texts // 5), 1))  # warm up
        process = psutil.Process(service.pid)
        before_mb, before_files = resident_mb(service.pid), process.num_fds()
        asyncio.run(run(service.url, texts, 2))
        growth_mb = resident_mb(service.pid) - before_mb
        time.sleep(6)  # until the service has closed idle connections
        leaked_files = process.num_fds() - before_files
    outcome = Outcome(f"{tally.texts:,} texts, 256 per request", tally.lost)
    outcome.expect("memory growth", growth_mb, max(10.0, texts / 100_000), " MB")
    outcome.expect("leaked files", leaked_files, 2)
    return outcome


def many_calls(calls: int, callers: int = 16) -> Outcome:
    """Make very many calls with one client: memory, open files and tasks of its process do not grow."""
    tally, rng = Tally(), random.Random(20)

    async def run(client: RewardClient, count: int, seed: int) -> None:
        serials = iter(range(seed, seed + count))

        async def caller() -> None:
            for serial in serials:
                text = unique_text(serial, rng)
                tally.check((await client.ascore([text], rewards=["banana"])).rewards["banana"].scores, [text])

        await asyncio.gather(*(caller() for _ in range(callers)))

    async def growth(url: str) -> tuple[float, int, int]:
        client, process = RewardClient(url), psutil.Process()
        await run(client, min(5_000, calls // 5), seed=0)  # warm up
        before_mb, files, tasks = resident_mb(process.pid), process.num_fds(), len(asyncio.all_tasks())
        await run(client, calls, seed=10_000_000)
        grown = resident_mb(process.pid) - before_mb, process.num_fds() - files, len(asyncio.all_tasks()) - tasks
        await client.aclose()
        return grown

    with Supervisor(RULES) as service:
        growth_mb, leaked_files, leaked_tasks = asyncio.run(growth(service.url))
    outcome = Outcome(f"{tally.texts:,} calls, {callers} in flight", tally.lost)
    outcome.expect("memory growth", growth_mb, 20.0, " MB")
    outcome.expect("leaked files", leaked_files, 2)
    outcome.expect("leaked tasks", leaked_tasks, 0)
    return outcome


def mixed_load(
    seconds: float, callers: int = 8, reload_every_s: float = 20.0, max_growth_percent: float = 5.0
) -> Outcome:
    """Score with a rule and a model for a long time, with injected faults and reloads."""
    kinds = [faults.reset_at(0), faults.reset_at(120), faults.status(503), faults.body("{oops")]
    rng, tally, reloads = random.Random(21), Tally(), itertools.count()

    def draw_faults() -> Iterator[faults.Fault | None]:
        while True:
            yield rng.choice(kinds) if rng.random() < 0.05 else None

    async def reload_repeatedly(service: Supervisor, active: Condition) -> None:
        while active():
            await asyncio.sleep(reload_every_s)
            await asyncio.to_thread(reload_service, service)
            next(reloads)

    async def call_the_model(client: RewardClient, active: Condition) -> None:
        first_scores: dict[str, float] = {}
        for serial in itertools.cycle(range(100)):  # repeated texts, whose cached scores are lost at each reload
            if not active():
                return
            tally.calls += 1
            text = f"It was {serial} times as good as I had feared."
            score = (await client.ascore([text], rewards=["valence"])).rewards["valence"].scores[0]
            tally.missing += score is None
            tally.wrong += score is not None and abs(score - first_scores.setdefault(text, score)) > 1e-5

    async def run(service: Supervisor, url: str, seconds: float) -> None:
        client, active = RewardClient(url, timeout_s=120), for_seconds(seconds)
        calls = [call_repeatedly(client, tally, active, max_texts=16, seed=seed) for seed in range(callers)]
        await asyncio.gather(*calls, call_the_model(client, active), reload_repeatedly(service, active))
        await client.aclose()

    config = DATA / "mixed.yaml"
    with Supervisor(config) as service, faults.fault_proxy(service.url, schedule=draw_faults()) as (url, _):
        asyncio.run(run(service, url, seconds / 4))
        before_mb = min_resident_mb(service.pid)
        asyncio.run(run(service, url, 3 * seconds / 4))
        growth = 100 * (min_resident_mb(service.pid) / before_mb - 1)
    done = f"{seconds / 60:.0f} minutes, {next(reloads)} reloads, faults in 5% of responses, {tally.calls:,} calls"
    outcome = Outcome(done, tally.lost)
    outcome.expect("memory growth", growth, max_growth_percent, " %")
    return outcome

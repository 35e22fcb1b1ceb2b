"""Very much, or very long: what memory, files and tasks grow by."""

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
    Going,
    Outcome,
    Tally,
    calling,
    compare,
    for_seconds,
    numbered,
    plain_http,
    resident_mb,
    settled_mb,
)
from tests.soak.changes import reloaded
from tests.soak.supervisor import Supervisor


def million(texts: int, callers: int = 4) -> Outcome:
    """T19: very many texts; memory and files of the service stay as they are."""
    tally = Tally()

    async def score(url: str, count: int, seed: int) -> None:
        async with plain_http() as client:
            chance, serials = random.Random(seed), itertools.count(seed * 10**9)
            for _ in range(count // (256 * callers)):
                batch = [numbered(next(serials), chance) for _ in range(256)]
                answer = await client.post(f"{url}/v1/score", json={"completions": batch})
                compare(answer.json()["rewards"]["banana"]["scores"], batch, tally)

    async def run(url: str, count: int, round_: int) -> None:
        await asyncio.gather(*(score(url, count, 100 * round_ + index) for index in range(callers)))

    with Supervisor(RULES) as service:
        asyncio.run(run(service.url, min(20_000, texts // 5), 1))  # warm
        process = psutil.Process(service.pid)
        before_mb, files = resident_mb(service.pid), process.num_fds()
        asyncio.run(run(service.url, texts, 2))
        grown_mb = resident_mb(service.pid) - before_mb
        time.sleep(6)  # connections end
        more_files = process.num_fds() - files
    outcome = Outcome("T19 very many texts", f"{tally.texts:,} texts, 256 a request", tally.lost)
    outcome.expect("memory grown by", grown_mb, max(10.0, texts / 100_000), " MB")
    outcome.expect("files opened and kept", more_files, 2)
    return outcome.settle()


def many_calls(calls: int, callers: int = 16) -> Outcome:
    """T20: very many calls of one client; memory, files and tasks of its process stay as they are."""
    tally, chance = Tally(), random.Random(20)

    async def run(client: RewardClient, count: int, seed: int) -> None:
        serials = iter(range(seed, seed + count))

        async def caller() -> None:
            for serial in serials:
                text = numbered(serial, chance)
                compare((await client.ascore([text], rewards=["banana"])).rewards["banana"].scores, [text], tally)

        await asyncio.gather(*(caller() for _ in range(callers)))

    async def measured(url: str) -> tuple[float, int, int]:
        client, process = RewardClient(url), psutil.Process()
        await run(client, min(5_000, calls // 5), seed=0)  # warm
        before_mb, files, tasks = resident_mb(process.pid), process.num_fds(), len(asyncio.all_tasks())
        await run(client, calls, seed=10_000_000)
        grown = resident_mb(process.pid) - before_mb, process.num_fds() - files, len(asyncio.all_tasks()) - tasks
        await client.aclose()
        return grown

    with Supervisor(RULES) as service:
        grown_mb, files, tasks = asyncio.run(measured(service.url))
    outcome = Outcome("T20 very many calls of a client", f"{tally.texts:,} calls, {callers} at a time", tally.lost)
    outcome.expect("memory grown by", grown_mb, 20.0, " MB")
    outcome.expect("files opened and kept", files, 2)
    outcome.expect("tasks begun and kept", tasks, 0)
    return outcome.settle()


def mixed(seconds: float, callers: int = 8, reload_every_s: float = 20.0, growth_percent: float = 5.0) -> Outcome:
    """T21: a rule and a model, faults on the wire and reloads, for long."""
    kinds = [faults.reset_at(0), faults.reset_at(120), faults.status(503), faults.body("{oops")]
    chance, tally, reloads = random.Random(21), Tally(), itertools.count()

    def spoilt() -> Iterator[faults.Fault | None]:
        while True:
            yield chance.choice(kinds) if chance.random() < 0.05 else None

    async def reload_now_and_then(service: Supervisor, going: Going) -> None:
        while going():
            await asyncio.sleep(reload_every_s)
            await asyncio.to_thread(reloaded, service)
            next(reloads)

    async def ask_the_model(client: RewardClient, going: Going) -> None:
        first: dict[str, float] = {}
        for serial in itertools.cycle(range(100)):  # the same texts again, of which reloads forget the scores
            if not going():
                return
            tally.calls += 1
            text = f"It was {serial} times as good as I had feared."
            score = (await client.ascore([text], rewards=["valence"])).rewards["valence"].scores[0]
            tally.missing += score is None
            tally.wrong += score is not None and abs(score - first.setdefault(text, score)) > 1e-5

    async def run(service: Supervisor, url: str, seconds: float) -> None:
        client, going = RewardClient(url, timeout_s=120), for_seconds(seconds)
        work = [calling(client, tally, going, most=16, seed=index) for index in range(callers)]
        await asyncio.gather(*work, ask_the_model(client, going), reload_now_and_then(service, going))
        await client.aclose()

    with Supervisor(DATA / "mixed.yaml") as service, faults.spoiling(service.url, every=spoilt()) as (url, _):
        asyncio.run(run(service, url, seconds / 4))
        before_mb = settled_mb(service.pid)
        asyncio.run(run(service, url, 3 * seconds / 4))
        grown = 100 * (settled_mb(service.pid) / before_mb - 1)
    done = f"{seconds / 60:.0f} minutes, {next(reloads)} reloads, 5% of answers spoilt, {tally.calls:,} calls"
    outcome = Outcome("T21 everything at once", done, tally.lost)
    outcome.expect("memory grown by", grown, growth_percent, " %")
    return outcome.settle()

"""More than can be answered: overload, a flood beside single texts, a million texts."""

import asyncio
import itertools
import random
import time
from dataclasses import dataclass, field

import httpx
import psutil

from shared import RewardClient
from tests.trials.base import (
    RULES,
    VALENCE,
    Going,
    Outcome,
    Tally,
    compare,
    for_seconds,
    numbered,
    plain_http,
    quantile,
)
from tests.trials.supervisor import Supervisor

TORCH = ("--backend", "torch", "--dtype", "float32")


@dataclass
class Level:
    """What one level of load has shown."""

    good_s: list[float] = field(default_factory=list)
    rejected_s: list[float] = field(default_factory=list)
    hints: int = 0
    other: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def goodput(self) -> float:
        """Requests answered a second."""
        return len(self.good_s) / self.seconds


def invariance(texts: int, groupings: int) -> Outcome:
    """T1: a text's score does not depend on what it is scored with, but for the last digits of float32."""
    chance = random.Random(1)
    chosen = [numbered(index, chance) for index in range(texts)]
    with Supervisor(VALENCE, *TORCH, REWARD_SERVICE_CACHE_TEXTS="0") as service, RewardClient(service.url) as client:
        alone = {text: client.score([text]).rewards["valence"].scores[0] for text in chosen}
        worst = 0.0
        for _ in range(groupings):
            chance.shuffle(chosen)
            for start in range(0, texts, size := chance.randrange(2, 200)):
                group = chosen[start : start + size]
                scores = client.score(group).rewards["valence"].scores
                worst = max(worst, *(abs(s - alone[t]) for s, t in zip(scores, group, strict=True)))
    outcome = Outcome("T1 batch invariance", f"{texts:,} texts alone and in {groupings} random groupings")
    outcome.expect("largest difference", worst, 1e-5)
    return outcome.settle()


def fairness(seconds: float) -> Outcome:
    """T16: one caller sends a thousand texts at a time, ten send single ones."""

    async def singles(url: str, tally: Tally, seed: int, going: Going) -> None:
        chance, serials = random.Random(seed), itertools.count(seed * 1_000_000)
        async with plain_http(60) as client:
            while going():
                began_s = time.monotonic()
                answer = await client.post(f"{url}/v1/score", json={"completions": [numbered(next(serials), chance)]})
                tally.latencies_s.append(time.monotonic() - began_s)
                tally.failed += answer.status_code != 200

    async def flood(url: str, going: Going) -> None:
        chance, serials = random.Random(0), itertools.count(900_000_000)
        async with plain_http(120) as client:
            while going():
                texts = [numbered(next(serials), chance) for _ in range(1000)]
                await client.post(f"{url}/v1/score", json={"completions": texts})

    async def p99_s(url: str, tally: Tally) -> float:
        await asyncio.gather(*(singles(url, tally, seed, for_seconds(seconds)) for seed in range(1, 11)))
        return quantile(tally.latencies_s, 0.99)

    async def run(url: str) -> float:
        await p99_s(url, Tally())  # warm
        alone_s, over = await p99_s(url, Tally()), [False]
        flooding = asyncio.create_task(flood(url, lambda: not over[0]))
        await asyncio.sleep(0.5)
        beside_s = await p99_s(url, tally)
        over[0] = True
        flooding.cancel()
        await asyncio.gather(flooding, return_exceptions=True)
        return beside_s / alone_s

    tally = Tally()
    with Supervisor(VALENCE, *TORCH, REWARD_SERVICE_CACHE_TEXTS="0") as service:
        ratio = asyncio.run(run(service.url))
    outcome = Outcome("T16 fairness", f"{len(tally.latencies_s)} single texts beside a flood", tally.failed)
    outcome.expect("p99 beside the flood / alone", ratio, 3.0, timed=True)
    return outcome.settle()


def overload(seconds: float, factors: tuple[float, ...] = (0.5, 0.8, 1, 2, 5, 10), batch: int = 32) -> Outcome:
    """T15: up to ten times what can be answered, as it comes."""
    settings = {"REWARD_SERVICE_CACHE_TEXTS": "0", "REWARD_SERVICE_QUEUE_TEXTS": "1024"}
    with Supervisor(VALENCE, *TORCH, **settings) as service:
        levels, health = asyncio.run(_overload(service.url, seconds, factors, batch))
        assert service.health() == 200
    peak, top = max(level.goodput for level in levels.values()), levels[max(factors)]
    other = [text for level in levels.values() for text in level.other]
    rejected = [latency for level in levels.values() for latency in level.rejected_s]
    hints = sum(level.hints for level in levels.values())
    outcome = Outcome("T15 overload", f"{min(factors)} to {max(factors)} × capacity, {seconds:g} s each", len(other))
    outcome.figures["goodput"] = ", ".join(f"{f:g}×: {level.goodput:.0f}/s" for f, level in levels.items())
    outcome.figures["rejected"] = f"{len(rejected):,}, all with Retry-After: {hints == len(rejected)}"
    outcome.broken += other[:3] + ([] if hints == len(rejected) else ["a rejection without Retry-After"])
    outcome.expect("peak / goodput at the top", peak / max(top.goodput, 1e-9), 1 / 0.9, timed=True)
    outcome.expect("health p99", 1000 * quantile(health, 0.99), 50, " ms", timed=True)
    if rejected:
        outcome.expect("rejected within, p99", 1000 * quantile(rejected, 0.99), 20, " ms", timed=True)
    return outcome.settle()


async def _overload(
    url: str, seconds: float, factors: tuple[float, ...], batch: int
) -> tuple[dict[float, Level], list[float]]:
    chance, serials, levels, health = random.Random(15), itertools.count(), {}, []
    async with plain_http(60) as client:

        async def ask(level: Level, texts: list[str]) -> None:
            due_s = time.monotonic()
            body = {"completions": texts}
            try:
                answer = await client.post(
                    f"{url}/v1/score", json=body, headers={"X-Request-Timeout-Ms": "5000"}, timeout=10
                )
            except httpx.HTTPError as error:
                level.other.append(type(error).__name__)
                return
            spent_s = time.monotonic() - due_s
            if answer.status_code == 200:
                level.good_s.append(spent_s)
            elif answer.status_code == 429:
                level.rejected_s.append(answer.elapsed.total_seconds())
                level.hints += "Retry-After" in answer.headers
            else:
                level.other.append(answer.text[:200])

        async def watch(going: Going) -> None:
            while going():
                began_s = time.monotonic()
                await client.get(f"{url}/health/ready")
                health.append(time.monotonic() - began_s)
                await asyncio.sleep(0.02)

        def fresh() -> list[str]:
            return [numbered(next(serials), chance) for _ in range(batch)]

        closed = Level()
        going = for_seconds(max(2.0, seconds / 3))

        async def caller() -> None:
            while going():
                await ask(closed, fresh())

        began_s = time.monotonic()
        await asyncio.gather(*(caller() for _ in range(8)))
        capacity = len(closed.good_s) / (time.monotonic() - began_s)
        for factor in factors:
            level = levels[factor] = Level()
            over = [False]
            watching = asyncio.create_task(watch(lambda over=over: not over[0]))  # type: ignore[misc]
            began_s, tasks = time.monotonic(), []
            for number in range(int(seconds * capacity * factor)):
                await asyncio.sleep(max(0.0, began_s + number / (capacity * factor) - time.monotonic()))
                tasks.append(asyncio.create_task(ask(level, fresh())))
            await asyncio.gather(*tasks)
            level.seconds = time.monotonic() - began_s
            over[0] = True
            await watching
    return levels, health


def million(texts: int, callers: int = 4) -> Outcome:
    """T19: very many texts; memory, files and tasks stay as they are."""
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
        before_mb, files = process.memory_info().rss / 1e6, process.num_fds()
        asyncio.run(run(service.url, texts, 2))
        grown_mb = process.memory_info().rss / 1e6 - before_mb
        time.sleep(6)  # connections end
        more_files = process.num_fds() - files
    outcome = Outcome("T19 very many texts", f"{tally.texts:,} texts, 256 a request", tally.lost)
    outcome.expect("memory grown by", grown_mb, max(10.0, texts / 100_000), " MB")
    outcome.expect("files opened and kept", more_files, 2)
    return outcome.settle()

"""More than can be answered: overload, a flood beside single texts, a million texts."""

import asyncio
import itertools
import json
import random
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import uvloop

from remote_rewards import RewardClient
from tests.soak.base import VALENCE, Going, Outcome, Tally, for_seconds, numbered, plain_http, quantile
from tests.soak.supervisor import Supervisor

TORCH = ("--backend", "torch", "--dtype", "float32")
SCORE = b"POST /v1/score HTTP/1.1\r\nHost: x\r\nX-Request-Timeout-Ms: 5000\r\nContent-Type: application/json\r\n"
HEALTH = b"GET /health/ready HTTP/1.1\r\nHost: x\r\n"
LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


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

    def __str__(self) -> str:
        return f"{self.goodput:.2f}/s · {quantile(self.good_s, 0.99):.1f} s"


def invariance(texts: int, groupings: int) -> Outcome:
    """T1: a text's score does not depend on what it is scored with, but for the last digits of float32."""
    chance = random.Random(1)
    chosen = [numbered(index, chance) for index in range(texts)]
    with Supervisor(VALENCE, *TORCH, REWARD_SERVICE_CACHE_SIZE="0") as service, RewardClient(service.url) as client:
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
    with Supervisor(VALENCE, *TORCH, REWARD_SERVICE_CACHE_SIZE="0") as service:
        ratio = asyncio.run(run(service.url))
    outcome = Outcome("T16 fairness", f"{len(tally.latencies_s)} single texts beside a flood", tally.failed)
    outcome.expect("p99 beside the flood / alone", ratio, 3.0, timed=True)
    return outcome.settle()


def overload(seconds: float, factors: tuple[float, ...] = (0.5, 0.8, 1, 2, 5, 10), batch: int = 32) -> Outcome:
    """T15: up to ten times what can be answered, as it comes."""
    settings = {"REWARD_SERVICE_CACHE_SIZE": "0", "REWARD_SERVICE_MAX_QUEUE_TEXTS": "1024"}
    with Supervisor(VALENCE, *TORCH, **settings) as service:
        levels, load = uvloop.run(_levels(service.port, seconds, factors, batch))
        assert service.health() == 200
    peak, top = max(level.goodput for level in levels.values()), levels[max(factors)]
    other = [text for level in levels.values() for text in level.other]
    rejected = [latency for level in levels.values() for latency in level.rejected_s]
    hints = sum(level.hints for level in levels.values())
    outcome = Outcome("T15 overload", f"{min(factors)} to {max(factors)} × capacity, {seconds:g} s each", len(other))
    outcome.figures["goodput · p99"] = ", ".join(f"{factor:g}×: {level}" for factor, level in levels.items())
    outcome.figures["rejected"] = f"{len(rejected):,}, all with Retry-After: {hints == len(rejected)}"
    outcome.broken += other[:3] + ([] if hints == len(rejected) else ["a rejection without Retry-After"])
    outcome.expect("peak / goodput at the top", peak / max(top.goodput, 1e-9), 1 / 0.9, timed=True)
    outcome.expect("health p99", 1000 * quantile(load.health_s, 0.99), 50, " ms", timed=True)
    outcome.expect("first answer afterwards", load.rest_s, 5, " s", timed=True)
    if rejected:
        outcome.expect("rejected within, p99", 1000 * quantile(rejected, 0.99), 20, " ms", timed=True)
    return outcome.settle()


@dataclass
class Connections:
    """As little HTTP as will do: whoever sends the load takes its time from the cores that are to answer it."""

    port: int
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=list)

    async def ask(self, request: bytes, patience_s: float = 10.0) -> tuple[bytes, str]:
        """Send a request; give the head of its answer, and its body."""
        async with asyncio.timeout(patience_s):
            reader, writer = await self._free()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = LENGTH.search(head)
            body = await reader.readexactly(int(length[1]) if length else 0)
        self.idle.append((reader, writer))
        return head, body.decode()

    async def _free(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self.idle:
            reader, writer = self.idle.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        return await asyncio.open_connection("127.0.0.1", self.port)


@dataclass
class Overload:
    """An open loop of requests against one service, and somebody who asks how it is meanwhile."""

    service: Connections
    batch: int
    chance: random.Random = field(default_factory=lambda: random.Random(15))
    serials: Iterator[int] = field(default_factory=itertools.count)
    health_s: list[float] = field(default_factory=list)
    rest_s: float = 0.0

    def body(self) -> bytes:
        """Make a request of texts that no other has."""
        texts = [numbered(next(self.serials), self.chance) for _ in range(self.batch)]
        return json.dumps({"completions": texts}).encode()

    async def ask(self, level: Level, body: bytes) -> None:
        """Send one request and note what became of it."""
        began_s = time.monotonic()
        try:
            head, told = await self.service.ask(SCORE + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        except (OSError, EOFError, TimeoutError) as error:
            level.other.append(type(error).__name__)
            return
        took_s, status = time.monotonic() - began_s, head.split(maxsplit=2)[1]
        if status == b"200":
            level.good_s.append(took_s)
        elif status == b"429":
            level.rejected_s.append(took_s)
            level.hints += b"\r\nretry-after: " in head.lower()
        else:
            level.other.append(told[:200])

    async def capacity(self, seconds: float) -> float:
        """Give the requests answered a second where three callers ask again when answered."""
        closed, going = Level(), for_seconds(seconds)

        async def caller() -> None:
            while going():
                await self.ask(closed, self.body())

        began_s = time.monotonic()
        await asyncio.gather(*(caller() for _ in range(3)))
        return len(closed.good_s) / (time.monotonic() - began_s)

    async def level(self, requests_per_s: float, seconds: float) -> Level:
        """Send requests as they are due, answered or not. They are made before: who scores them shares the cores."""
        bodies = [self.body() for _ in range(int(seconds * requests_per_s))]
        level, began_s, tasks = Level(), time.monotonic(), []
        watching = asyncio.create_task(self._watch())
        for number, body in enumerate(bodies):
            await asyncio.sleep(max(0.0, began_s + number / requests_per_s - time.monotonic()))
            tasks.append(asyncio.create_task(self.ask(level, body)))
        await asyncio.gather(*tasks)
        level.seconds = time.monotonic() - began_s
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        return level

    async def _watch(self) -> None:
        while True:
            began_s = time.monotonic()
            await self.service.ask(HEALTH + b"\r\n")
            self.health_s.append(time.monotonic() - began_s)
            await asyncio.sleep(0.02)


async def _levels(
    port: int, seconds: float, factors: tuple[float, ...], batch: int
) -> tuple[dict[float, Level], Overload]:
    load = Overload(Connections(port), batch)
    capacity = await load.capacity(max(2.0, seconds / 3))
    levels = {factor: await load.level(factor * capacity, seconds) for factor in factors}
    await load.ask(rest := Level(), load.body())
    load.rest_s = max(rest.good_s, default=float("inf"))
    return levels, load

"""Load: concurrent callers, large batches beside small requests, and more requests than the service can score."""

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
from tests.soak.base import (
    RULES,
    VALENCE,
    Condition,
    Outcome,
    Tally,
    call_repeatedly,
    for_seconds,
    plain_http,
    quantile,
    unique_text,
)
from tests.soak.supervisor import Supervisor

TORCH = ("--backend", "torch", "--dtype", "float32")
SCORE = b"POST /v1/score HTTP/1.1\r\nHost: x\r\nX-Request-Timeout-Ms: 5000\r\nContent-Type: application/json\r\n"
HEALTH = b"GET /health/ready HTTP/1.1\r\nHost: x\r\n"
CONTENT_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


def batch_invariance(texts: int, groupings: int) -> Outcome:
    """Score texts alone and in random batches: the scores differ in the last digits of float32 at most."""
    rng = random.Random(1)
    sample = [unique_text(serial, rng) for serial in range(texts)]
    with Supervisor(VALENCE, *TORCH, REWARD_SERVICE_CACHE_SIZE="0") as service, RewardClient(service.url) as client:
        alone = {text: client.score([text]).rewards["valence"].scores[0] for text in sample}
        worst = 0.0
        for _ in range(groupings):
            rng.shuffle(sample)
            for start in range(0, texts, size := rng.randrange(2, 200)):
                group = sample[start : start + size]
                scores = client.score(group).rewards["valence"].scores
                worst = max(worst, *(abs(s - alone[t]) for s, t in zip(scores, group, strict=True)))
    outcome = Outcome(f"{texts:,} texts alone and in {groupings} random groupings")
    outcome.expect("largest difference", worst, 1e-5)
    return outcome


def concurrent_callers(callers: int, calls: int) -> Outcome:
    """Score unique texts of many concurrent callers: every text gets its own score."""
    tally = Tally()

    async def run(url: str) -> None:
        client, remaining = RewardClient(url), [calls] * callers

        def active(caller: int) -> bool:
            remaining[caller] -= 1
            return remaining[caller] >= 0

        work = (
            call_repeatedly(client, tally, lambda caller=caller: active(caller), max_texts=64, seed=caller)  # type: ignore[misc]
            for caller in range(callers)
        )
        await asyncio.gather(*work)
        await client.aclose()

    with Supervisor(RULES) as service:
        asyncio.run(run(service.url))
    return Outcome(f"{callers} callers, {tally.texts:,} texts", tally.lost)


def fairness(seconds: float) -> Outcome:
    """Score single texts beside a caller with a thousand texts a request: their latency at most triples."""

    async def send_singles(url: str, tally: Tally, seed: int, active: Condition) -> None:
        rng, serials = random.Random(seed), itertools.count(seed * 1_000_000)
        async with plain_http(60) as client:
            while active():
                started_s = time.monotonic()
                body = {"completions": [unique_text(next(serials), rng)]}
                response = await client.post(f"{url}/v1/score", json=body)
                tally.latencies_s.append(time.monotonic() - started_s)
                tally.failed += response.status_code != 200

    async def send_large(url: str) -> None:
        rng, serials = random.Random(0), itertools.count(900_000_000)
        async with plain_http(120) as client:
            while True:
                texts = [unique_text(next(serials), rng) for _ in range(1000)]
                await client.post(f"{url}/v1/score", json={"completions": texts})

    async def p99_s(url: str, tally: Tally) -> float:
        await asyncio.gather(*(send_singles(url, tally, seed, for_seconds(seconds)) for seed in range(1, 11)))
        return quantile(tally.latencies_s, 0.99)

    async def run(url: str) -> float:
        await p99_s(url, Tally())  # warm up
        alone_s = await p99_s(url, Tally())
        large = asyncio.create_task(send_large(url))
        await asyncio.sleep(0.5)
        beside_s = await p99_s(url, tally)
        large.cancel()
        await asyncio.gather(large, return_exceptions=True)
        return beside_s / alone_s

    tally = Tally()
    with Supervisor(VALENCE, *TORCH, REWARD_SERVICE_CACHE_SIZE="0") as service:
        ratio = asyncio.run(run(service.url))
    outcome = Outcome(f"{len(tally.latencies_s)} single texts beside large requests", tally.failed)
    outcome.expect("p99 / p99 alone", ratio, 3.0, timed=True)
    return outcome


def overload(seconds: float, factors: tuple[float, ...] = (0.5, 0.8, 1, 2, 5, 10), batch: int = 32) -> Outcome:
    """Send up to ten times the capacity, open loop: goodput stays, and admitted requests are in time."""
    settings = {"REWARD_SERVICE_CACHE_SIZE": "0", "REWARD_SERVICE_MAX_QUEUE_TEXTS": "1024"}
    with Supervisor(VALENCE, *TORCH, **settings) as service:
        levels, load = uvloop.run(_measure_levels(service.port, seconds, factors, batch))
        assert service.ready_status() == 200
    peak, top = max(level.goodput for level in levels.values()), levels[max(factors)]
    unexpected = [text for level in levels.values() for text in level.unexpected]
    rejected_s = [latency for level in levels.values() for latency in level.rejected_s]
    with_retry_after = sum(level.with_retry_after for level in levels.values())
    outcome = Outcome(f"{min(factors)} to {max(factors)} × capacity, {seconds:g} s each", len(unexpected))
    outcome.figures["goodput · p99"] = ", ".join(f"{factor:g}×: {level}" for factor, level in levels.items())
    outcome.figures["rejected"] = f"{len(rejected_s):,}, {with_retry_after:,} of them with Retry-After"
    outcome.violations += unexpected[:3]
    if with_retry_after != len(rejected_s):
        outcome.violations.append("a rejection without Retry-After")
    outcome.expect("peak goodput / goodput at the top", peak / max(top.goodput, 1e-9), 1 / 0.9, timed=True)
    outcome.expect("health p99", 1000 * quantile(load.health_s, 0.99), 50, " ms", timed=True)
    outcome.expect("first response afterwards", load.recovery_s, 5, " s", timed=True)
    if rejected_s:
        outcome.expect("rejection p99", 1000 * quantile(rejected_s, 0.99), 20, " ms", timed=True)
    return outcome


@dataclass
class Level:
    """The responses at one level of load."""

    scored_s: list[float] = field(default_factory=list)
    rejected_s: list[float] = field(default_factory=list)
    with_retry_after: int = 0
    unexpected: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def goodput(self) -> float:
        """Requests scored per second."""
        return len(self.scored_s) / self.seconds

    def __str__(self) -> str:
        if not self.scored_s:
            return "none scored"
        return f"{self.goodput:.2f}/s · {quantile(self.scored_s, 0.99):.1f} s"


@dataclass
class Connections:
    """A minimal HTTP client: the load generator shares the cores with the service."""

    port: int
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=list)

    async def send(self, request: bytes, timeout_s: float = 10.0) -> tuple[bytes, str]:
        """Send a request. Returns the head and the body of the response."""
        async with asyncio.timeout(timeout_s):
            reader, writer = await self._acquire()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = CONTENT_LENGTH.search(head)
            body = await reader.readexactly(int(length[1]) if length else 0)
        self.idle.append((reader, writer))
        return head, body.decode()

    async def _acquire(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self.idle:
            reader, writer = self.idle.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        return await asyncio.open_connection("127.0.0.1", self.port)


@dataclass
class LoadGenerator:
    """Open-loop requests to one service, with a health check beside them."""

    service: Connections
    batch: int
    rng: random.Random = field(default_factory=lambda: random.Random(15))
    serials: Iterator[int] = field(default_factory=itertools.count)
    health_s: list[float] = field(default_factory=list)
    recovery_s: float = 0.0

    def body(self) -> bytes:
        """Return the body of a request with unique texts."""
        texts = [unique_text(next(self.serials), self.rng) for _ in range(self.batch)]
        return json.dumps({"completions": texts}).encode()

    async def send(self, level: Level, body: bytes) -> None:
        """Send one request and record its response."""
        started_s = time.monotonic()
        try:
            head, content = await self.service.send(SCORE + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        except (OSError, EOFError, TimeoutError) as error:
            level.unexpected.append(type(error).__name__)
            return
        latency_s, status = time.monotonic() - started_s, head.split(maxsplit=2)[1]
        if status == b"200":
            level.scored_s.append(latency_s)
        elif status == b"429":
            level.rejected_s.append(latency_s)
            level.with_retry_after += b"\r\nretry-after: " in head.lower()
        else:
            level.unexpected.append(content[:200])

    async def capacity(self, seconds: float) -> float:
        """Return the requests per second that three closed-loop callers get scored."""
        level, active = Level(), for_seconds(seconds)

        async def caller() -> None:
            while active():
                await self.send(level, self.body())

        started_s = time.monotonic()
        await asyncio.gather(*(caller() for _ in range(3)))
        return len(level.scored_s) / (time.monotonic() - started_s)

    async def run_level(self, requests_per_s: float, seconds: float) -> Level:
        """Send requests at a constant rate. Their bodies are made beforehand, to take no time from the service."""
        bodies = [self.body() for _ in range(int(seconds * requests_per_s))]
        level, started_s, tasks = Level(), time.monotonic(), []
        health_check = asyncio.create_task(self._check_health())
        for number, body in enumerate(bodies):
            await asyncio.sleep(max(0.0, started_s + number / requests_per_s - time.monotonic()))
            tasks.append(asyncio.create_task(self.send(level, body)))
        await asyncio.gather(*tasks)
        level.seconds = time.monotonic() - started_s
        health_check.cancel()
        await asyncio.gather(health_check, return_exceptions=True)
        return level

    async def _check_health(self) -> None:
        while True:
            started_s = time.monotonic()
            await self.service.send(HEALTH + b"\r\n")
            self.health_s.append(time.monotonic() - started_s)
            await asyncio.sleep(0.02)


async def _measure_levels(
    port: int, seconds: float, factors: tuple[float, ...], batch: int
) -> tuple[dict[float, Level], LoadGenerator]:
    load = LoadGenerator(Connections(port), batch)
    capacity = await load.capacity(max(2.0, seconds / 3))
    levels = {factor: await load.run_level(factor * capacity, seconds) for factor in factors}
    await load.send(afterwards := Level(), load.body())
    load.recovery_s = max(afterwards.scored_s, default=float("inf"))
    return levels, load

"""A load generator for any service: closed loop (each caller waits for its response) and open loop (a constant rate).

The latency of a request counts from the moment it was due.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import aiohttp

Body = Callable[[Sequence[str]], bytes]
HEADERS = {"Content-Type": "application/json"}


@dataclass
class Load:
    """The result of a run of requests."""

    seconds: float = 0.0
    texts: int = 0
    failed: int = 0
    latencies_s: list[float] = field(default_factory=list)

    @property
    def texts_per_s(self) -> float:
        """Texts scored per second."""
        return self.texts / self.seconds

    def latency_ms(self, share: float) -> float:
        """Return a quantile of the latency."""
        ordered = sorted(self.latencies_s)
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass(frozen=True)
class Target:
    """A service's scoring URL, and its request body for texts."""

    url: str
    body: Body

    async def send(self, client: aiohttp.ClientSession, texts: Sequence[str], due_s: float, load: Load) -> None:
        """Send one request and record its response."""
        try:
            async with client.post(self.url, data=self.body(texts), headers=HEADERS) as response:
                await response.read()
                succeeded = response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            succeeded = False
        load.latencies_s.append(time.monotonic() - due_s)
        load.texts += len(texts) if succeeded else 0
        load.failed += not succeeded


def closed_loop(target: Target, texts: Sequence[str], per_request: int, callers: int) -> Load:
    """Score all texts with `callers` callers, each with one request at a time."""
    requests = [texts[start : start + per_request] for start in range(0, len(texts), per_request)]

    async def run() -> Load:
        load, remaining = Load(), iter(requests)
        async with _client() as client:

            async def call() -> None:
                for batch in remaining:
                    await target.send(client, batch, time.monotonic(), load)

            started_s = time.monotonic()
            await asyncio.gather(*(call() for _ in range(callers)))
            load.seconds = time.monotonic() - started_s
        return load

    return asyncio.run(run())


def open_loop(target: Target, texts: Sequence[str], per_request: int, requests_per_s: float) -> Load:
    """Send requests at a constant rate, whether or not earlier ones have completed."""
    requests = [texts[start : start + per_request] for start in range(0, len(texts), per_request)]

    async def run() -> Load:
        load = Load()
        async with _client() as client, asyncio.TaskGroup() as group:
            started_s = time.monotonic()
            for number, batch in enumerate(requests):
                due_s = started_s + number / requests_per_s
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
                group.create_task(target.send(client, batch, due_s, load))
        load.seconds = time.monotonic() - started_s
        return load

    return asyncio.run(run())


def _client() -> aiohttp.ClientSession:
    """Return a client with a fifteenth of httpx's CPU time, since it shares the cores with the service."""
    connections, timeout = aiohttp.TCPConnector(limit=512), aiohttp.ClientTimeout(total=120)
    return aiohttp.ClientSession(connector=connections, timeout=timeout)

"""One load generator for every service: callers that each wait for their answer (closed loop), or requests that come
when they come (open loop). Each request's latency is counted from the moment it was due.
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
    """What a run of requests has shown."""

    seconds: float = 0.0
    texts: int = 0
    failed: int = 0
    latencies_s: list[float] = field(default_factory=list)

    @property
    def texts_per_s(self) -> float:
        """Give the texts scored each second."""
        return self.texts / self.seconds

    def latency_ms(self, share: float) -> float:
        """Give the latency that this share of the requests stayed within."""
        ordered = sorted(self.latencies_s)
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass(frozen=True)
class Target:
    """Where a service takes texts, and how it wants them."""

    url: str
    body: Body

    async def send(self, client: aiohttp.ClientSession, texts: Sequence[str], due_s: float, load: Load) -> None:
        """Send one request and count it."""
        try:
            async with client.post(self.url, data=self.body(texts), headers=HEADERS) as response:
                await response.read()
                good = response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            good = False
        load.latencies_s.append(time.monotonic() - due_s)
        load.texts += len(texts) if good else 0
        load.failed += not good


def closed_loop(target: Target, texts: Sequence[str], per_request: int, callers: int) -> Load:
    """Let `callers` score all texts between them, each with one request at a time."""
    requests = [texts[start : start + per_request] for start in range(0, len(texts), per_request)]

    async def run() -> Load:
        load, left = Load(), iter(requests)
        async with _client() as client:

            async def call() -> None:
                for batch in left:
                    await target.send(client, batch, time.monotonic(), load)

            began_s = time.monotonic()
            await asyncio.gather(*(call() for _ in range(callers)))
            load.seconds = time.monotonic() - began_s
        return load

    return asyncio.run(run())


def open_loop(target: Target, texts: Sequence[str], per_request: int, requests_per_s: float) -> Load:
    """Send requests at a steady rate, whether or not earlier ones have been answered."""
    requests = [texts[start : start + per_request] for start in range(0, len(texts), per_request)]

    async def run() -> Load:
        load = Load()
        async with _client() as client, asyncio.TaskGroup() as group:
            began_s = time.monotonic()
            for number, batch in enumerate(requests):
                due_s = began_s + number / requests_per_s
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
                group.create_task(target.send(client, batch, due_s, load))
        load.seconds = time.monotonic() - began_s
        return load

    return asyncio.run(run())


def _client() -> aiohttp.ClientSession:
    """Give a client that takes little of the cores it shares with the service: a fifteenth of what httpx does."""
    connections, patience = aiohttp.TCPConnector(limit=512), aiohttp.ClientTimeout(total=120)
    return aiohttp.ClientSession(connector=connections, timeout=patience)

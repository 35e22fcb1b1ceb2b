"""Several replicas: one joins, one falls silent, or one serves a new revision beside the old one."""

import asyncio
import contextlib
import itertools
import socket
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

import httpx

from remote_rewards import RewardClient
from shared.errors import RewardError
from tests.soak.base import RULES, Condition, Outcome, Tally, call_repeatedly, expected_score, for_seconds
from tests.soak.reloads import temporary_config, write_scaled
from tests.soak.supervisor import Supervisor

NAME = "rewards.test"
SECOND_HOST = "127.0.0.2"


@contextlib.contextmanager
def name_server(hosts: list[str]) -> Iterator[None]:
    """Resolve `NAME` to the hosts, which may change meanwhile."""
    getaddrinfo = asyncio.BaseEventLoop.getaddrinfo

    async def resolve(loop: Any, host: Any, port: Any, **options: Any) -> Any:
        if host != NAME:
            return await getaddrinfo(loop, host, port, **options)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in hosts]

    with mock.patch.object(asyncio.BaseEventLoop, "getaddrinfo", resolve):
        yield


class Link:
    """Forwards each connection to one of several services in turn, like a load balancer; `silent` loses all bytes."""

    def __init__(self, *urls: str) -> None:
        self.urls = list(urls)
        self.silent = False
        self._turn = itertools.count()

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        """Yield the URL at which it listens."""
        server = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream = urlsplit(self.urls[next(self._turn) % len(self.urls)])
        with contextlib.suppress(OSError, asyncio.CancelledError):
            service_reader, service_writer = await asyncio.open_connection(upstream.hostname, upstream.port)
            await asyncio.gather(self._copy(reader, service_writer), self._copy(service_reader, writer))
        writer.close()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if not self.silent:
                writer.write(data)
                await writer.drain()
        writer.close()


def replica_joins(seconds: float, within_s: float = 15.0, callers: int = 8) -> Outcome:
    """Add a second address to a name under load: the replica there soon gets its share of the texts."""
    tally, share = joined_share(seconds, within_s, callers)
    outcome = Outcome(f"a second replica joined, {callers} callers, {tally.calls:,} calls", tally.lost)
    outcome.expect(f"share of the first replica {within_s:g} s later", 1 - share, 0.6, timed=True)
    return outcome


def joined_share(seconds: float, within_s: float, callers: int = 8) -> tuple[Tally, float]:
    """Return the share of the texts that a replica gets, from `within_s` after it joined on, for so many seconds."""
    tally, hosts = Tally(), ["127.0.0.1"]

    async def run(first: Supervisor, second: Supervisor) -> float:
        client, active = RewardClient(f"dns+http://{NAME}:{first.port}"), for_seconds(1.0 + within_s + seconds)
        calls = [
            asyncio.create_task(call_repeatedly(client, tally, active, max_texts=32, seed=seed))
            for seed in range(callers)
        ]
        await asyncio.sleep(1.0)
        hosts.append(SECOND_HOST)
        await asyncio.sleep(within_s)
        before = [await asyncio.to_thread(scored_texts, service) for service in (first, second)]
        await asyncio.gather(*calls)
        await client.aclose()
        after = [await asyncio.to_thread(scored_texts, service) for service in (first, second)]
        return (after[1] - before[1]) / (sum(after) - sum(before))

    with (
        Supervisor(RULES) as first,
        Supervisor(RULES, "--insecure", host=SECOND_HOST, port=first.port) as second,
        name_server(hosts),
    ):
        return tally, asyncio.run(run(first, second))


def scored_texts(service: Supervisor) -> float:
    """Return the number of texts that a service has scored with the banana rule."""
    lines = httpx.get(f"{service.url}/metrics", timeout=30).text.splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith('reward_texts_total{reward="banana"}')))


def silent_replica(seconds: float, callers: int = 8) -> Outcome:
    """Cut the network of one of two replicas under load: its calls are rescued by the other one within seconds."""
    tally = Tally()

    async def run(first: Supervisor, second: Supervisor) -> None:
        link = Link(first.url)
        async with link.open() as url:
            client, active = RewardClient([url, second.url]), for_seconds(seconds)
            calls = [
                asyncio.create_task(call_repeatedly(client, tally, active, max_texts=32, seed=seed))
                for seed in range(callers)
            ]
            await asyncio.sleep(seconds / 4)
            link.silent = True
            await asyncio.gather(*calls)
            await client.aclose()

    with Supervisor(RULES) as first, Supervisor(RULES) as second:
        asyncio.run(run(first, second))
    outcome = Outcome(f"one of two replicas silent, {callers} callers, {tally.calls:,} calls", tally.lost)
    outcome.expect("worst call", max(tally.latencies_s), 5.0, " s", timed=True)
    return outcome


def revision_beside_revision(seconds: float, callers: int = 8) -> Outcome:
    """Replace one of two replicas behind one URL by a new revision: a run that is pinned to the old one goes on."""
    tally = Tally()

    async def call(client: RewardClient, pins: dict[str, str], active: Condition, seed: int) -> None:
        for serial in itertools.takewhile(lambda _: active(), itertools.count(seed * 1_000_000)):
            texts, started_s = [f"Sure: {serial} {'word ' * index}banana" for index in range(16)], time.monotonic()
            tally.calls += 1
            try:
                scores = (await client.ascore(texts, rewards=["scaled"], revisions=pins)).rewards["scaled"].scores
            except RewardError as error:
                tally.failed += 1
                tally.errors.append(str(error))
                continue
            tally.latencies_s.append(time.monotonic() - started_s)
            pairs = zip(scores, texts, strict=True)
            tally.wrong += sum(score is None or abs(score - 2 * expected_score(text)) > 1e-9 for score, text in pairs)

    async def run(old: list[str], new: str) -> None:
        link = Link(*old)
        async with link.open() as url:
            client, active = RewardClient(url), for_seconds(seconds)
            pins = {"scaled": (await client.ainfo()).revisions()["scaled"]}
            calls = [asyncio.create_task(call(client, pins, active, seed)) for seed in range(callers)]
            await asyncio.sleep(seconds / 4)
            link.urls = [old[0], new]
            await asyncio.to_thread(replaced.process.terminate)
            await asyncio.gather(*calls)
            await client.aclose()

    with temporary_config() as config, temporary_config() as new_config:
        write_scaled(config, 2)
        write_scaled(new_config, 3)
        with Supervisor(config) as kept, Supervisor(config) as replaced, Supervisor(new_config) as new:
            asyncio.run(run([kept.url, replaced.url], new.url))
    outcome = Outcome(f"one of two replicas replaced, {callers} pinned callers, {tally.calls:,} calls", tally.lost)
    outcome.expect("worst call", max(tally.latencies_s), 5.0, " s", timed=True)
    return outcome

"""Abuse: malformed bodies, texts that are slow to tokenize, slow connections, and callers that disconnect."""

import asyncio
import itertools
import json
import random
import socket
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import httpx

from remote_rewards import RewardClient
from reward_service.backends.model_folder import ModelFolder
from reward_service.dialects import DIALECTS
from reward_service.dialects.base import ScoreRoute
from shared.model_store import resolve
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
    resident_mb,
    unique_text,
)
from tests.soak.supervisor import Supervisor

ROUTES = {
    route.path: route.example for dialect in DIALECTS for route in dialect.routes if isinstance(route, ScoreRoute)
}
"""A valid body for each scoring path."""
VALID_BODY = {"completions": ["Sure: banana"], "rewards": ["banana"]}
MILLION_KEYS = json.dumps(dict.fromkeys(map(str, range(10**6)))).encode()
BodyFactory = Callable[[random.Random, dict[str, Any]], bytes]
"""Makes a malformed body from a valid one."""


def _mutated(rng: random.Random, valid: dict[str, Any]) -> bytes:
    body = bytearray(json.dumps(valid).encode())
    for _ in range(rng.randrange(1, 6)):
        position = rng.randrange(len(body))
        body[position : position + rng.randrange(3)] = rng.randbytes(rng.randrange(4))
    return bytes(body)


def _wrong_type(rng: random.Random, valid: dict[str, Any]) -> bytes:
    values = [None, 1, -1.5, True, "text", [], {}, [[]], [None], [1], {"a": 1}, [{"role": 1}], [[{"content": {}}]]]
    names = ("prompts", "columns", "labels", "rewards", "model", "details")
    return json.dumps({name: rng.choice(values) for name in (*valid, *names)}).encode()


def _wrong_part(rng: random.Random, valid: dict[str, Any]) -> bytes:
    """Replace a part of a valid body, however deep, by a value of another type."""
    body = json.loads(json.dumps(valid))
    parent, key = body, rng.choice(list(body))
    while isinstance(parent[key], dict | list) and parent[key] and rng.random() < 0.7:
        parent = parent[key]
        key = rng.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
    parent[key] = rng.choice([None, 1, True, "text", [], {}, [[]], {"role": 1}, 10**400, [["a", "b", "c"]]])
    return json.dumps(body).encode()


def _first(valid: dict[str, Any], value: bytes) -> bytes:
    """Return a body whose first field has this value."""
    return b"{" + json.dumps(next(iter(valid))).encode() + b": " + value + b"}"


BODY_FACTORIES: list[BodyFactory] = [
    _mutated,
    _wrong_type,
    _wrong_part,
    lambda rng, valid: b"[" * rng.choice([10, 1000, 100_000]),
    lambda rng, valid: json.dumps({**valid, "other": 1})[:-2].encode() + b"[" * rng.choice([100, 180, 250, 100_000]),
    lambda rng, valid: json.dumps({**valid, "x": 1})[:-2].encode() + b"[" * 150 + b"]" * 150 + b"}",
    lambda rng, valid: b'{"completions":' * 50_000 + b"1" + b"}" * 50_000,
    lambda rng, valid: json.dumps(dict.fromkeys(map(str, range(rng.choice([10, 10_000]))))).encode(),
    lambda rng, valid: MILLION_KEYS,
    lambda rng, valid: _first(valid, json.dumps([1] * rng.choice([10, 300_000])).encode()),
    lambda rng, valid: json.dumps({**valid, "columns": dict.fromkeys(map(str, range(10_000)), 1)}).encode(),
    lambda rng, valid: b'{"completions": ["a"], "completions": ["b"], "rewards": 7, "rewards": 8}',
    lambda rng, valid: b"\xef\xbb\xbf" + b'{"completions": 3}',
    lambda rng, valid: json.dumps(valid).encode("utf-16"),
    lambda rng, valid: _first(valid, b'["' + rng.randbytes(20) + b'\xff\xfe"]'),
    lambda rng, valid: _first(valid, b"[" + b"9" * rng.choice([20, 100_000]) + b"]"),
    lambda rng, valid: _first(valid, b"[NaN, Infinity, -Infinity]"),
    lambda rng, valid: _first(valid, b'["\\ud800"]'),
    lambda rng, valid: json.dumps({**valid, "rewards": ["../../etc/passwd", "a\x00b"], "model": "a\x00b"}).encode(),
    lambda rng, valid: b"",
    lambda rng, valid: rng.randbytes(rng.randrange(1, 2000)),
]
RAW_REQUESTS = [
    b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 5\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /metrics HTTP/1.1\r\n\r\n",
    b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n{",
    b"GET / HTTP/9.9\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
]


def malformed_bodies(requests: int) -> Outcome:
    """Send invalid bodies to all formats: each gets a 4xx with a reason, and the service stays healthy."""
    rng, unexpected, latencies_s, statuses = random.Random(22), [], [], set()
    with Supervisor(RULES) as service, httpx.Client(timeout=30) as client:

        def send(factory: BodyFactory, path: str) -> None:
            content, started_s = factory(rng, ROUTES[path]), time.monotonic()
            headers = {"Content-Type": "application/json"}
            response = client.post(service.url + path, content=content, headers=headers)
            latencies_s.append(time.monotonic() - started_s)
            statuses.add(response.status_code)
            if not (response.status_code == 200 or _is_client_error(response)):
                unexpected.append(f"{path}: {response.status_code} {response.text[:200]}")

        for factory, path in itertools.product(BODY_FACTORIES, ROUTES):
            send(factory, path)
        before_mb = resident_mb(service.pid)
        for _ in range(requests):
            send(rng.choice(BODY_FACTORIES), rng.choice(list(ROUTES)))
        for raw in RAW_REQUESTS * max(1, requests // 1000):
            _send_raw(service.port, raw)
        assert service.ready_status() == 200
        assert client.post(f"{service.url}/v1/score", json=VALID_BODY).json()["rewards"]["banana"]["scores"] == [1.99]
        growth_mb = resident_mb(service.pid) - before_mb
    done = f"{requests:,} bodies of {len(BODY_FACTORIES)} kinds to {len(ROUTES)} paths, "
    done += f"{len(RAW_REQUESTS)} malformed HTTP requests"
    outcome = Outcome(done, len(unexpected), violations=unexpected[:3])
    outcome.figures["statuses"] = ", ".join(map(str, sorted(statuses)))
    outcome.expect("memory growth", growth_mb, 50, " MB")
    outcome.expect("p99", 1000 * quantile(latencies_s, 0.99), 50, " ms", timed=True)
    return outcome


def _is_client_error(response: httpx.Response) -> bool:
    is_json = response.headers["Content-Type"] in ("application/json", "application/problem+json")
    return 400 <= response.status_code < 500 and is_json and bool(response.json())


def _send_raw(port: int, raw: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.settimeout(0.5)
        try:
            connection.sendall(raw)
            return connection.recv(65536)
        except (TimeoutError, ConnectionError):
            return b""


def tokenizer_stress(texts: int) -> Outcome:
    """Tokenize texts chosen to be slow: each takes a bounded time and number of tokens."""
    rng, worst_ms = random.Random(24), 0.0
    folder = ModelFolder(resolve("embedded:valence"), max_tokens=None, special_tokens=True)
    extremes = [
        "a" * 1_000_000,
        " " * 1_000_000,
        "\u0301" * 10_000,
        "a\u0301" * 100_000,
        "👩‍👩‍👧‍👦" * 20_000,
        "." * 1_000_000,
    ]
    ranges = [(0x20, 0x7E), (0xA0, 0x2FF), (0x300, 0x36F), (0x590, 0x6FF), (0x4E00, 0x9FFF), (0x1F300, 0x1FAFF)]

    def random_text() -> str:
        low, high = rng.choice([*ranges, (0x10000, 0x10FFFF)])
        return "".join(chr(rng.randint(low, high)) for _ in range(rng.randrange(2000)))

    for text in itertools.chain(extremes, (random_text() for _ in range(texts))):
        started_s = time.process_time()
        encoded = folder.encode([text])[0]
        worst_ms = max(worst_ms, 1000 * (time.process_time() - started_s))
        assert len(encoded.tokens) <= folder.max_tokens
    outcome = Outcome(f"{texts:,} texts of all Unicode planes, {len(extremes)} of up to a million characters")
    outcome.expect("slowest text", worst_ms, 200, " ms", timed=True)
    return outcome


def slow_connections(connections: int, seconds: float) -> Outcome:
    """Open many connections that send one byte a second: the latency of other callers at most doubles."""

    async def drip(port: int, active: Condition) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        for byte in itertools.cycle(b"POST /v1/score HTTP/1.1\r\nX: "):
            if not active():
                break
            writer.write(bytes([byte]))
            await asyncio.sleep(1.0)
        writer.close()

    async def p99_ms(url: str, tally: Tally) -> float:
        client, active = RewardClient(url), for_seconds(seconds)
        await asyncio.gather(*(call_repeatedly(client, tally, active, max_texts=8, seed=seed) for seed in range(4)))
        await client.aclose()
        return 1000 * quantile(tally.latencies_s, 0.99)

    async def run(service: Supervisor) -> float:
        await p99_ms(service.url, Tally())  # warm up
        ratios = []
        for _ in range(3):
            alone_ms, stopped = await p99_ms(service.url, Tally()), asyncio.Event()
            active = lambda stopped=stopped: not stopped.is_set()  # noqa: E731
            slow = [asyncio.create_task(drip(service.port, active)) for _ in range(connections)]
            await asyncio.sleep(0.2)
            ratios.append(await p99_ms(service.url, tally) / alone_ms)
            stopped.set()
            await asyncio.gather(*slow)
        return median(ratios)

    tally = Tally()
    with Supervisor(RULES) as service:
        ratio = asyncio.run(run(service))
    outcome = Outcome(f"{connections} connections at a byte a second; {tally.calls:,} calls", tally.lost)
    outcome.expect("p99 / p99 without them", ratio, 2.0, timed=True)
    return outcome


WAVE_SIZE = 100
"""How many callers disconnect at the same time."""


def disconnects(requests: int, batch: int = 32) -> Outcome:
    """Disconnect callers while their texts are queued: their texts are not computed."""
    settings = {"REWARD_SERVICE_MAX_QUEUE_TEXTS": "20000"}
    with Supervisor(VALENCE, "--backend", "torch", "--dtype", "float32", **settings) as service:
        queued, computed = asyncio.run(_disconnect_waves(service.url, requests, batch))
        assert service.ready_status() == 200
        metrics = httpx.get(f"{service.url}/metrics").text
    outcome = Outcome(f"{requests:,} requests of {batch} texts abandoned")
    outcome.expect("share computed anyway", computed / queued, 0.10)
    outcome.expect("requests left in flight", _metric(metrics, "reward_inflight") - 1, 0)  # but for the metrics' own
    outcome.expect("texts left in the queue", _metric(metrics, "reward_queue_depth"), 0)
    return outcome


async def _disconnect_waves(url: str, requests: int, batch: int) -> tuple[float, float]:
    """Abandon requests in waves, each once most of it is queued. Returns the texts then queued, and later computed.

    Only queued texts can be dropped, so texts computed before the disconnect are not counted.
    """
    rng, serials = random.Random(12), itertools.count()
    queued, computed = 0.0, 0.0
    async with plain_http(300) as client:

        def call(count: int) -> "asyncio.Task[httpx.Response]":
            texts = [unique_text(next(serials), rng) for _ in range(count)]
            return asyncio.create_task(client.post(f"{url}/v1/score", json={"completions": texts}))

        async def depth_and_computed() -> tuple[float, float]:
            metrics = (await client.get(f"{url}/metrics")).text
            return _metric(metrics, "reward_queue_depth"), _metric(metrics, "reward_batch_size_sum")

        for remaining in range(requests, 0, -WAVE_SIZE):
            wave = [call(batch) for _ in range(min(WAVE_SIZE, remaining))]
            while (before := await depth_and_computed())[0] < len(wave) * batch / 2:
                assert not all(task.done() for task in wave), "all were scored before half of them were queued"
            for task in wave:
                task.cancel()
            await asyncio.gather(*wave, return_exceptions=True)
            assert (await call(1)).status_code == 200  # scored after everything that was in flight
            queued, computed = queued + before[0], computed + (await depth_and_computed())[1] - 1 - before[1]
    return queued, computed


def _metric(text: str, name: str) -> float:
    prefixes = (f"{name} ", f"{name}{{")
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(prefixes))

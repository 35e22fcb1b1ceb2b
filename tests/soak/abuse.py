"""What nobody should send: bodies that are none, texts made to be slow, requests given up at once."""

import asyncio
import itertools
import json
import random
import socket
import time
from collections.abc import Callable

import httpx

from reward_service.backends.model_folder import ModelFolder
from shared.model_store import resolve
from tests.soak.base import RULES, VALENCE, Outcome, numbered, plain_http, quantile, resident_mb
from tests.soak.supervisor import Supervisor

GOOD = {"completions": ["Sure: banana"], "rewards": ["banana"]}
MILLION_KEYS = json.dumps(dict.fromkeys(map(str, range(10**6)))).encode()
Make = Callable[[random.Random], bytes]


def _mutated(chance: random.Random) -> bytes:
    body = bytearray(json.dumps(GOOD).encode())
    for _ in range(chance.randrange(1, 6)):
        place = chance.randrange(len(body))
        body[place : place + chance.randrange(3)] = chance.randbytes(chance.randrange(4))
    return bytes(body)


def _wrong_type(chance: random.Random) -> bytes:
    values = [None, 1, -1.5, True, "text", [], {}, [[]], [None], [1], {"a": 1}, [{"role": 1}], [[{"content": {}}]]]
    content = {name: chance.choice(values) for name in ("completions", "prompts", "columns", "rewards", "details")}
    return json.dumps(content).encode()


MALFORMED: list[Make] = [
    _mutated,
    _wrong_type,
    lambda chance: b"[" * chance.choice([10, 1000, 100_000]),
    lambda chance: b'{"completions":' * 50_000 + b"1" + b"}" * 50_000,
    lambda chance: json.dumps(dict.fromkeys(map(str, range(chance.choice([10, 10_000]))))).encode(),
    lambda chance: MILLION_KEYS,
    lambda chance: json.dumps({"completions": [1] * chance.choice([10, 300_000])}).encode(),
    lambda chance: json.dumps({"completions": [], "columns": dict.fromkeys(map(str, range(10_000)), 1)}).encode(),
    lambda chance: b'{"completions": ["a"], "completions": ["b"], "rewards": 7, "rewards": 8}',
    lambda chance: b"\xef\xbb\xbf" + b'{"completions": 3}',
    lambda chance: json.dumps(GOOD).encode("utf-16"),
    lambda chance: b'{"completions": ["' + chance.randbytes(20) + b'\xff\xfe"]}',
    lambda chance: b'{"completions": [' + b"9" * chance.choice([20, 100_000]) + b"]}",
    lambda chance: b'{"completions": [NaN, Infinity, -Infinity]}',
    lambda chance: b'{"completions": ["\\ud800"]',
    lambda chance: b'{"completions": ["a"], "rewards": ["../../etc/passwd", "a\\u0000b"]}',
    lambda chance: b"",
    lambda chance: chance.randbytes(chance.randrange(1, 2000)),
]
RAW = [
    b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 5\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /metrics HTTP/1.1\r\n\r\n",
    b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n{",
    b"GET / HTTP/9.9\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
]


def malformed(requests: int) -> Outcome:
    """T22: bodies that are wrong in every way; each gets a 4xx that says why, and nothing else happens."""
    chance, strange, latencies, statuses = random.Random(22), [], [], set()
    with Supervisor(RULES) as service, httpx.Client(timeout=30) as client:
        kind = {"Content-Type": "application/json"}

        def send(make: Make) -> None:
            content, began_s = make(chance), time.monotonic()
            answer = client.post(f"{service.url}/v1/score", content=content, headers=kind)
            latencies.append(time.monotonic() - began_s)
            statuses.add(answer.status_code)
            valid = answer.headers["Content-Type"] == "application/problem+json" and answer.json()["detail"]
            if not (answer.status_code == 200 or (400 <= answer.status_code < 500 and valid)):
                strange.append(answer.text[:200])

        for make in MALFORMED * 2:
            send(make)
        before_mb = resident_mb(service.pid)
        for _ in range(requests):
            send(chance.choice(MALFORMED))
        for raw in RAW * max(1, requests // 1000):
            _send_raw(service.port, raw)
        assert service.health() == 200
        assert client.post(f"{service.url}/v1/score", json=GOOD).json()["rewards"]["banana"]["scores"] == [1.99]
        grown_mb = resident_mb(service.pid) - before_mb
    outcome = Outcome(
        "T22 malformed bodies", f"{requests:,} of {len(MALFORMED)} kinds, {len(RAW)} raw ones", len(strange)
    )
    outcome.figures["statuses"] = ", ".join(map(str, sorted(statuses)))
    outcome.broken += strange[:3]
    outcome.expect("memory grown by", grown_mb, 50, " MB")
    outcome.expect("p99", 1000 * quantile(latencies, 0.99), 50, " ms", timed=True)
    return outcome.settle()


def _send_raw(port: int, raw: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.settimeout(0.5)
        try:
            connection.sendall(raw)
            return connection.recv(65536)
        except (TimeoutError, ConnectionError):
            return b""


def torture(texts: int) -> Outcome:
    """T24: texts made to be slow for a tokenizer, each bounded in time."""
    chance, worst_ms = random.Random(24), 0.0
    folder = ModelFolder(resolve("embedded:valence"), max_tokens=None, special_tokens=True)
    extremes = [
        "a" * 1_000_000,
        " " * 1_000_000,
        "\u0301" * 10_000,
        "a\u0301" * 100_000,
        "👩‍👩‍👧‍👦" * 20_000,
        "." * 1_000_000,
    ]
    planes = [(0x20, 0x7E), (0xA0, 0x2FF), (0x300, 0x36F), (0x590, 0x6FF), (0x4E00, 0x9FFF), (0x1F300, 0x1FAFF)]

    def odd() -> str:
        low, high = chance.choice([*planes, (0x10000, 0x10FFFF)])
        return "".join(chr(chance.randint(low, high)) for _ in range(chance.randrange(2000)))

    for text in itertools.chain(extremes, (odd() for _ in range(texts))):
        began_s = time.process_time()
        encoded = folder.encode([text])[0]
        worst_ms = max(worst_ms, 1000 * (time.process_time() - began_s))
        assert len(encoded.tokens) <= folder.max_tokens
    outcome = Outcome(
        "T24 tokenizer torture", f"{texts:,} texts of all planes, {len(extremes)} of a million characters"
    )
    outcome.expect("worst text", worst_ms, 200, " ms", timed=True)
    return outcome.settle()


WAVE = 100
"""So many callers hang up in one moment."""


def leaving(requests: int, batch: int = 32) -> Outcome:
    """T12: callers that hang up while they wait; what they asked is not computed."""
    with Supervisor(
        VALENCE, "--backend", "torch", "--dtype", "float32", REWARD_SERVICE_MAX_QUEUE_TEXTS="20000"
    ) as service:
        waited, computed = asyncio.run(_leave(service.url, requests, batch))
        assert service.health() == 200
        metrics = httpx.get(f"{service.url}/metrics").text
    outcome = Outcome("T12 callers that leave", f"{requests:,} requests of {batch} texts given up")
    outcome.expect("share computed all the same", computed / waited, 0.10)
    outcome.expect("requests still under way", _metric(metrics, "reward_inflight") - 1, 0)  # this one
    outcome.expect("texts still waiting", _metric(metrics, "reward_queue_depth"), 0)
    return outcome.settle()


async def _leave(url: str, requests: int, batch: int) -> tuple[float, float]:
    """Give up requests in waves, each once most of it waits: tell how many texts waited then, and were computed after.

    Only what waits can be spared, so what had its turn before anybody left is not counted.
    """
    chance, serials = random.Random(12), itertools.count()
    waited, computed = 0.0, 0.0
    async with plain_http(300) as client:

        def ask(count: int) -> "asyncio.Task[httpx.Response]":
            texts = [numbered(next(serials), chance) for _ in range(count)]
            return asyncio.create_task(client.post(f"{url}/v1/score", json={"completions": texts}))

        async def look() -> tuple[float, float]:
            metrics = (await client.get(f"{url}/metrics")).text
            return _metric(metrics, "reward_queue_depth"), _metric(metrics, "reward_batch_size_sum")

        for left in range(requests, 0, -WAVE):
            wave = [ask(batch) for _ in range(min(WAVE, left))]
            while (seen := await look())[0] < len(wave) * batch / 2:
                assert not all(task.done() for task in wave), "all were answered before half of them had to wait"
            for task in wave:
                task.cancel()
            await asyncio.gather(*wave, return_exceptions=True)
            assert (await ask(1)).status_code == 200  # behind whatever was under way
            waited, computed = waited + seen[0], computed + (await look())[1] - 1 - seen[1]
    return waited, computed


def _metric(text: str, name: str) -> float:
    values = [
        float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{"))
    ]
    return sum(values)

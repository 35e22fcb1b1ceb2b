"""`make bench-slo`: the service level objectives besides throughput, each with its target."""

import argparse
import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from statistics import median

import httpx
import numpy as np

from bench.baselines import engine_loop
from bench.bounds import Bound, Measured, at_least, at_most, conclude
from bench.load import Load, Target, closed_loop, open_loop
from bench.serving import auto_engine
from bench.systems import LOGS, our_service
from bench.texts import texts
from remote_rewards import RewardClient
from reward_service.backends.benchmark import score_error
from reward_service.backends.engines import REFERENCE, forward_all, load
from reward_service.backends.model_folder import ModelFolder
from reward_service.batch_planning import plan_batches
from reward_service.process import usable_cores
from shared.model_store import resolve
from tests.soak.replicas import joined_share

ROUNDS = 5
HEADERS = {"Content-Type": "application/json"}


def one_text() -> list[Measured]:
    """Measure the latency that HTTP, queue and threads add to the forward pass of one text on an idle service."""
    text, bare_loop = texts(1, seed=3), engine_loop(auto_engine())
    bare_ms, served_ms = list[float](), list[float]()
    with our_service("slo") as target, httpx.Client() as client:
        for _ in range(200):
            bare_ms.append(1000 * bare_loop(text))
            started_s = time.monotonic()
            client.post(target.url, content=target.body(text), headers=HEADERS).raise_for_status()
            served_ms.append(1000 * (time.monotonic() - started_s))
    added = median(served_ms[20:]) - median(bare_ms[20:])
    label = "one text, idle service: latency added to the forward pass"
    return [Measured(label, added, f"{{:.1f}} ms of {median(bare_ms[20:]):.1f}", at_most(3, "ms"))]


def health_under_load() -> list[Measured]:
    """Measure the latency of the health check at four times the capacity."""
    sample = texts(2048, seed=4)
    with our_service("slo") as target:
        capacity = closed_loop(target, sample[:256], 64, 4).texts_per_s
        latencies = asyncio.run(_health_latencies(target, sample, 4 * capacity / 64))
    slow_ms = float(1000 * np.quantile(latencies, 0.99))
    return [Measured("health check at 4 × capacity, p99", slow_ms, "{:.1f} ms", Bound("<", 50, "ms"))]


async def _health_latencies(target: Target, sample: Sequence[str], requests_per_s: float) -> list[float]:
    latencies: list[float] = []
    load = asyncio.create_task(asyncio.to_thread(open_loop, target, sample, 64, requests_per_s))
    async with httpx.AsyncClient(timeout=30) as client:
        while not load.done():
            started_s = time.monotonic()
            await client.get(target.url.replace("/v1/score", "/health"))
            latencies.append(time.monotonic() - started_s)
            await asyncio.sleep(0.05)
    return latencies


def repeats() -> list[Measured]:
    """Measure the gain from texts that repeat within a request, and from the score cache."""
    unused = iter(texts(256 * ROUNDS * 2, seed=5))
    half_shares, speedups = [], []
    os.environ["BENCH_CACHE_SIZE"] = "50000"
    with our_service("slo") as target:
        for _ in range(ROUNDS):
            batch, half = [next(unused) for _ in range(128)], [next(unused) for _ in range(64)] * 2
            first_s = closed_loop(target, batch, 128, 1).seconds
            half_shares.append(closed_loop(target, half, 128, 1).seconds / first_s)
            speedups.append(first_s / closed_loop(target, batch, 128, 1).seconds)
    del os.environ["BENCH_CACHE_SIZE"]
    return [
        Measured(
            "request with half of its texts repeated: share of the time",
            *(median(half_shares), "{:.2f}", at_most(0.55)),
        ),
        Measured("second pass over the same texts: speedup", median(speedups), "{:.0f}", at_least(20)),
    ]


def rules() -> list[Measured]:
    """Measure the throughput of a rule, 256 texts per request."""
    sample = texts(2560, seed=6) * 20
    with our_service("slo", body=_banana_body) as target:
        rates = [closed_loop(target, sample, 256, 4).texts_per_s for _ in range(ROUNDS)]
    label = "rule rewards, 4 callers × 256 texts, one process"
    return [Measured(label, median(rates), "{:,.0f} texts/s", at_least(30_000))]


def _banana_body(batch: Sequence[str]) -> bytes:
    return json.dumps({"completions": list(batch), "rewards": ["banana"]}).encode()


def one_query() -> list[Measured]:
    """Measure the throughput of 64 callers with one text a request, as OpenRLHF calls, against 64 texts a request."""
    sample, ratios = texts(CALLERS * 8, seed=11), list[float]()
    with our_service("slo") as native:
        single = Target(native.url.replace("/v1/score", "/get_reward?reward=sentiment"), _query_body)
        for _ in range(1 + ROUNDS):
            batched_rate = closed_loop(native, sample, CALLERS, 1).texts_per_s
            ratios.append(closed_loop(single, sample, 1, CALLERS).texts_per_s / batched_rate)
    label = f"{CALLERS} callers × 1 text in OpenRLHF's format: share of 1 × {CALLERS}"
    return [Measured(label, median(ratios[1:]), "{:.2f}", at_least(0.8))]


CALLERS = 64


def _query_body(batch: Sequence[str]) -> bytes:
    return json.dumps({"query": list(batch), "prompts": ["" for _ in batch]}).encode()


def replicas() -> list[Measured]:
    """Measure the speedup of one client by replicas of a reward that waits for a remote GPU."""
    with contextlib.ExitStack() as stack:
        urls = [stack.enter_context(_fake_gpu_service(number)) for number in range(8)]
        rates = {count: median(_client_throughput(urls[:count]) for _ in range(3)) for count in (1, 2, 8)}
    label = f"replicas, {TEXTS_PER_CALL} texts per call: speedup of one client"
    bounds = {2: at_least(1.9), 8: at_least(7)}
    return [Measured(f"{count} {label}", rates[count] / rates[1], "{:.2f} ×", bound) for count, bound in bounds.items()]


def one_call() -> list[Measured]:
    """Measure the time of one call of 256 texts, as a training step makes it, on four replicas and on one."""
    with contextlib.ExitStack() as stack:
        urls = [stack.enter_context(_fake_gpu_service(number)) for number in range(4)]
        seconds = {count: _call_seconds(urls[:count]) for count in (1, 4)}
    label = "one call of 256 texts, 4 replicas: share of the time on 1 replica"
    return [Measured(label, seconds[4] / seconds[1], f"{{:.2f}} of {1000 * seconds[1]:.0f} ms", at_most(0.4))]


def _call_seconds(urls: Sequence[str]) -> float:
    with RewardClient(urls) as client:
        seconds = []
        for _ in range(ROUNDS * 4):
            started_s = time.monotonic()
            client.score(["a text"] * 256, rewards=["fake_gpu"])
            seconds.append(time.monotonic() - started_s)
    return median(seconds)


def joining() -> list[Measured]:
    """Measure the share of the texts that a second replica gets, from 15 seconds after it has joined a name."""
    _, share = joined_share(seconds=10, within_s=15)
    label = "share of the texts of a second replica, 15 s after it joined a name"
    return [Measured(label, share, "{:.2f}", at_least(0.4))]


TEXTS_PER_CALL, CALLS_PER_REPLICA = 64, 60


@contextlib.contextmanager
def _fake_gpu_service(number: int) -> Iterator[str]:
    LOGS.mkdir(exist_ok=True)
    config = LOGS / "fake_gpu.yaml"
    spec = '{kind: function, object: "bench.fake_gpu_reward:fake_gpu", rows: independent, workers: 1}'
    config.write_text(f"rewards:\n  fake_gpu: {spec}\n", encoding="utf-8")
    with our_service(f"replica {number}", "--config", str(config)) as target:
        yield target.url.removesuffix("/v1/score")


def _client_throughput(urls: Sequence[str]) -> float:
    async def run() -> float:
        client, batch = RewardClient(urls), ["a text"] * TEXTS_PER_CALL
        await client.ainfo()
        started_s = time.monotonic()
        await asyncio.gather(
            *(client.ascore(batch, rewards=["fake_gpu"]) for _ in range(CALLS_PER_REPLICA * len(urls)))
        )
        seconds = time.monotonic() - started_s
        await client.aclose()
        return TEXTS_PER_CALL * CALLS_PER_REPLICA * len(urls) / seconds

    return asyncio.run(run())


def errors() -> list[Measured]:
    """Measure the score error of the selected engine on 2,000 texts that it was not selected by."""
    folder, sample = ModelFolder(resolve("embedded:sentiment")), texts(2000, seed=7)
    tokens = [text.tokens for text in folder.encode(sample)]
    batches = [[tokens[index] for index in batch] for batch in plan_batches([*map(len, tokens)], 2048)]
    reference = forward_all(load(REFERENCE, folder, usable_cores()), batches)
    rows = list[Measured]()
    if (engine := auto_engine()) != REFERENCE:
        logits = forward_all(load(engine, folder, usable_cores()), batches)
        same = float(np.mean(np.argmax(reference, axis=1) == np.argmax(logits, axis=1)))
        error = score_error(reference, logits, folder)
        rows += [
            Measured(f"auto ({engine}): error, p99", error, "{:.2g}", at_most(0.02)),
            Measured("auto: texts with the same label as float32 torch", 100 * same, "{:.2f} %", at_least(99.5, "%")),
        ]
    return rows


def invariance() -> list[Measured]:
    """Measure the cost of deterministic scores, which do not depend on what else is in the batch."""
    sample = texts(128, seed=8)
    with our_service("default") as default, our_service("deterministic", "--deterministic") as deterministic:
        services = (default, deterministic)
        pairs = [[closed_loop(target, sample, 64, 2).texts_per_s for target in services] for _ in range(ROUNDS)]
    ratio = median(deterministic_rate / default_rate for default_rate, deterministic_rate in pairs)
    return [Measured("deterministic: share of the throughput", ratio, "{:.2f}")]


def footprint() -> list[Measured]:
    """Measure memory and startup of a service with `sentiment`, models in the cache."""
    LOGS.mkdir(exist_ok=True)
    config = LOGS / "sentiment.yaml"
    config.write_text(
        'rewards:\n  sentiment: {kind: classifier, model: "embedded:sentiment", last_chars: 512, '
        'labels: {POSITIVE: 2.0, "*": -1.0}}\n',
        encoding="utf-8",
    )
    ready_s = []
    for _ in range(ROUNDS):
        started_s = time.monotonic()
        with our_service("footprint", "--config", str(config)) as target:
            ready_s.append(time.monotonic() - started_s)
            closed_loop(target, texts(256, seed=9), 64, 4)
            metrics = httpx.get(target.url.replace("/v1/score", "/metrics")).text.splitlines()
    resident = next(float(line.split()[1]) for line in metrics if line.startswith("process_resident_memory_bytes "))
    return [
        Measured("resident memory with `sentiment`", resident / 1e6, "{:.0f} MB", at_most(900, "MB")),
        Measured("start to ready, models in the cache", median(ready_s), "{:.1f} s", at_most(8, "s")),
    ]


def overload() -> list[Measured]:
    """Measure goodput and latency in an open loop at twice the capacity."""
    sample = texts(2048, seed=10)
    with our_service("slo") as target:
        capacity = closed_loop(target, sample[:256], 16, 8).texts_per_s
        load: Load = open_loop(target, sample[: int(capacity * 10)], 16, 2 * capacity / 16)
    form = f"{{:.0f}} · {load.latency_ms(0.99):.0f} ms"
    return [
        Measured("open loop at 2 × capacity: share of the capacity scored", load.texts_per_s / capacity, "{:.2f}"),
        Measured("open loop at 2 × capacity: latency, median · p99", load.latency_ms(0.5), form),
    ]


MEASUREMENTS = (
    one_text,
    health_under_load,
    repeats,
    rules,
    one_query,
    replicas,
    one_call,
    joining,
    errors,
    invariance,
    overload,
    footprint,
)
OBJECTIVES: dict[str, Callable[[], list[Measured]]] = {function.__name__: function for function in MEASUREMENTS}


def main() -> int:
    """Measure the named objectives, or all, and print the table. Return the exit code.

    The table of all is written to `bench/results`.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*OBJECTIVES, []], help="objectives (default: all)")
    names = parser.parse_args().names or list(OBJECTIVES)
    rows = list[Measured]()
    for name in names:
        measured = OBJECTIVES[name]()
        print(*measured, sep="\n", flush=True)
        rows += measured
    return conclude("what", rows, name="slo" if len(names) == len(OBJECTIVES) else None)


if __name__ == "__main__":
    sys.exit(main())

"""`make bench-slo`: what the service promises besides raw speed, each measured beside what it is compared with."""

import argparse
import asyncio
import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from statistics import median

import httpx
import numpy as np

from bench.baselines import engine_loop
from bench.load import Load, Target, closed_loop, open_loop
from bench.report import markdown, write
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

Row = list[str]
ROUNDS = 5
HEADERS = {"Content-Type": "application/json"}


def one_text() -> list[Row]:
    """One text, idle service: what HTTP, queue and threads add to the bare forward."""
    text, bare, bare_ms, served_ms = texts(1, seed=3), engine_loop(auto_engine()), list[float](), list[float]()
    with our_service("figures") as target, httpx.Client() as client:
        for _ in range(200):
            bare_ms.append(1000 * bare(text))
            began_s = time.monotonic()
            client.post(target.url, content=target.body(text), headers=HEADERS).raise_for_status()
            served_ms.append(1000 * (time.monotonic() - began_s))
    added = median(served_ms[20:]) - median(bare_ms[20:])
    return [["one text, idle: added to the bare forward", f"{added:.1f} ms of {median(bare_ms[20:]):.1f}", "≤ 3 ms"]]


def health_under_load() -> list[Row]:
    """Health answers while four times as much is asked as can be answered."""
    scored = texts(2048, seed=4)
    with our_service("figures") as target:
        capacity = closed_loop(target, scored[:256], 64, 4).texts_per_s
        latencies = asyncio.run(_health_while(target, scored, 4 * capacity / 64))
    return [["health, p99 at 4 × capacity", f"{1000 * np.quantile(latencies, 0.99):.1f} ms", "< 50 ms"]]


async def _health_while(target: Target, scored: Sequence[str], requests_per_s: float) -> list[float]:
    latencies: list[float] = []
    flood = asyncio.create_task(asyncio.to_thread(open_loop, target, scored, 64, requests_per_s))
    async with httpx.AsyncClient(timeout=30) as client:
        while not flood.done():
            began_s = time.monotonic()
            await client.get(target.url.replace("/v1/score", "/health"))
            latencies.append(time.monotonic() - began_s)
            await asyncio.sleep(0.05)
    return latencies


def repeats() -> list[Row]:
    """Texts that repeat within a request, and texts asked for again."""
    fresh = iter(texts(256 * ROUNDS * 2, seed=5))
    halves, again = [], []
    os.environ["BENCH_CACHE_SIZE"] = "50000"
    with our_service("figures") as target:
        for _ in range(ROUNDS):
            batch, half = [next(fresh) for _ in range(128)], [next(fresh) for _ in range(64)] * 2
            once = closed_loop(target, batch, 128, 1).seconds
            halves.append(closed_loop(target, half, 128, 1).seconds / once)
            again.append(once / closed_loop(target, batch, 128, 1).seconds)
    del os.environ["BENCH_CACHE_SIZE"]
    return [
        ["a request in which half the texts repeat: share of the time", f"{median(halves):.2f}", "≤ 0.55"],
        ["a second pass over the same texts: times as fast", f"{median(again):.0f}", "≥ 20"],
    ]


def rules() -> list[Row]:
    """Rule rewards, 256 texts a request."""
    scored = texts(2560, seed=6) * 20
    with our_service("figures", body=_banana) as target:
        rates = [closed_loop(target, scored, 256, 4).texts_per_s for _ in range(ROUNDS)]
    return [["rule rewards, 256 texts × 4 callers, one process", f"{median(rates):,.0f} texts/s", "≥ 30,000"]]


def _banana(batch: Sequence[str]) -> bytes:
    return json.dumps({"completions": list(batch), "rewards": ["banana"]}).encode()


def replicas() -> list[Row]:
    """The client spreads its requests over replicas of a reward that waits for a distant device."""
    with contextlib.ExitStack() as stack:
        urls = [stack.enter_context(_sleeping(number)) for number in range(8)]
        rates = {count: median(_spread(urls[:count]) for _ in range(3)) for count in (1, 2, 8)}
    rows = [(2, "≥ 1.9"), (8, "≥ 7")]
    return [
        [f"{count} replicas behind the client, {PER_CALL} texts a call", f"{rates[count] / rates[1]:.2f} ×", goal]
        for count, goal in rows
    ]


PER_CALL, CALLS = 64, 60


@contextlib.contextmanager
def _sleeping(number: int) -> Iterator[str]:
    LOGS.mkdir(exist_ok=True)
    config = LOGS / "sleeping.yaml"
    config.write_text('rewards:\n  distant: "bench.fake_gpu_reward:distant"\n', encoding="utf-8")
    with our_service(f"replica {number}", "--config", str(config)) as target:
        yield target.url.removesuffix("/v1/score")


def _spread(urls: Sequence[str]) -> float:
    async def run() -> float:
        client, batch = RewardClient(urls), ["a text"] * PER_CALL
        await client.ainfo()
        began_s = time.monotonic()
        await asyncio.gather(*(client.ascore(batch, rewards=["distant"]) for _ in range(CALLS * len(urls))))
        seconds = time.monotonic() - began_s
        await client.aclose()
        return PER_CALL * CALLS * len(urls) / seconds

    return asyncio.run(run())


def errors() -> list[Row]:
    """Scores of 2,000 texts that no engine was chosen by."""
    folder, scored = ModelFolder(resolve("embedded:sentiment")), texts(2000, seed=7)
    tokens = [text.tokens for text in folder.encode(scored)]
    batches = [[tokens[index] for index in batch] for batch in plan_batches([*map(len, tokens)], 2048)]
    right = forward_all(load(REFERENCE, folder, usable_cores()), batches)
    rows = []
    if (chosen := auto_engine()) != REFERENCE:
        found = forward_all(load(chosen, folder, usable_cores()), batches)
        same = np.mean(np.argmax(right, axis=1) == np.argmax(found, axis=1))
        rows += [
            [f"auto ({chosen}): 99th percentile of the error", f"{score_error(right, found, folder):.2g}", "≤ 0.02"],
            ["auto: texts with the label of float32 torch", f"{same:.2%}", "≥ 99.5 %"],
        ]
    return rows


def invariance() -> list[Row]:
    """What it costs that a score does not depend on what else is in its batch."""
    scored = texts(128, seed=8)
    with our_service("free") as free, our_service("deterministic", "--deterministic") as alone:
        pairs = [[closed_loop(each, scored, 64, 2).texts_per_s for each in (free, alone)] for _ in range(ROUNDS)]
    ratio = median(slow / fast for fast, slow in pairs)
    return [["deterministic: share of the speed", f"{ratio:.2f}", "told"]]


def footprint() -> list[Row]:
    """Memory and start of a service with `sentiment`, models in the cache."""
    LOGS.mkdir(exist_ok=True)
    config = LOGS / "sentiment.yaml"
    config.write_text(
        'rewards:\n  sentiment: {kind: classifier, model: "embedded:sentiment", last_chars: 512, '
        'labels: {POSITIVE: 2.0, "*": -1.0}}\n',
        encoding="utf-8",
    )
    ready_s = []
    for _ in range(ROUNDS):
        began_s = time.monotonic()
        with our_service("footprint", "--config", str(config)) as target:
            ready_s.append(time.monotonic() - began_s)
            closed_loop(target, texts(256, seed=9), 64, 4)
            metrics = httpx.get(target.url.replace("/v1/score", "/metrics")).text.splitlines()
    resident = next(float(line.split()[1]) for line in metrics if line.startswith("process_resident_memory_bytes "))
    return [
        ["resident memory with `sentiment`", f"{resident / 1e6:.0f} MB", "≤ 900 MB"],
        ["ready, models in the cache", f"{median(ready_s):.1f} s", "≤ 8 s"],
    ]


def overload() -> list[Row]:
    """Open loop at twice the capacity: what is answered is still as much as could be."""
    scored = texts(2048, seed=10)
    with our_service("figures") as target:
        capacity = closed_loop(target, scored[:256], 16, 8).texts_per_s
        found: Load = open_loop(target, scored[: int(capacity * 10)], 16, 2 * capacity / 16)
    latency = f"{found.latency_ms(0.5):.0f} · {found.latency_ms(0.99):.0f} ms"
    return [
        ["open loop at 2 × capacity: share of it answered", f"{found.texts_per_s / capacity:.2f}", "told"],
        ["… latency, median · p99", latency, "told"],
    ]


FIGURES: dict[str, Callable[[], list[Row]]] = {
    each.__name__: each
    for each in (one_text, health_under_load, repeats, rules, replicas, errors, invariance, overload, footprint)
}


def main() -> None:
    """Measure what is named, or all; print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*FIGURES, []], help="which figures (default: all)")
    names = parser.parse_args().names or list(FIGURES)
    rows = [["what", "measured", "goal"]]
    for name in names:
        rows += FIGURES[name]()
        print(*rows[-1], sep=" | ", flush=True)
    print(markdown(rows))
    if len(names) == len(FIGURES):
        write("figures", {"rows": rows[1:]}, markdown(rows))


if __name__ == "__main__":
    main()

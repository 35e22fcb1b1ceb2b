"""`make bench`: throughput and latency of our service, its peers and bare loops on the same texts.

Throughput is measured in a closed loop, latency in an open loop at the same constant rate for all; results are medians
over interleaved rounds. Writes `bench/results/serving.json`, a table (`serving.md`) and a plot (`serving.svg`).
"""

import argparse
import subprocess
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from statistics import median

from bench.baselines import Loop, engine_loop, pipeline_loop
from bench.load import Load, Target, closed_loop, open_loop
from bench.report import bars, markdown, write
from bench.systems import ALL_PEERS, our_service, running_peer
from bench.texts import texts
from reward_service.backends.engines import REFERENCE, Engine, candidates
from reward_service.backends.model_folder import ModelFolder
from reward_service.backends.selection import select_engine
from reward_service.process import usable_cores
from shared.model_store import resolve

SHAPES = {"16 × 4": (16, 4), "1 × 32": (1, 32), "64 × 4": (64, 4)}
"""Closed loop: texts per request × callers."""
AUTO, FP32 = "remote-rewards auto", "remote-rewards float32"
PIPELINE = "pipeline(texts)"
OPEN_LOOP = (16, 0.8)
"""Texts per request, and the rate as a share of the throughput of `pipeline(texts)`."""
MEDIAN, P90 = "median", "p90"
WARMUP = (192, 64, 3)
"""Texts, texts per request, and callers of the warmup before each measurement."""
Service = Callable[[], AbstractContextManager[Target]]
PEERS = [peer.name for peer in ALL_PEERS]


def main() -> None:
    """Run the benchmark, print the table and write the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--texts", type=int, default=768, help="texts per measurement")
    parser.add_argument("--peers", nargs="*", default=PEERS, choices=PEERS)
    args = parser.parse_args()
    engine, sample = auto_engine(), texts(args.texts)
    loops, services = bare_loops(engine), service_starters(args.peers)
    for loop in loops.values():
        loop(sample[: WARMUP[0]])
    rates: dict[str, list[float]] = defaultdict(list)  # texts/s
    latencies: dict[str, list[float]] = defaultdict(list)  # ms
    for round_ in range(args.rounds):
        for name, loop in loops.items():
            record(rates, round_, name, len(sample) / loop(sample), "texts/s")
        for name, service in services.items():
            measure_service(rates, latencies, round_, name, service, sample)
    medians = {name: median(values) for name, values in rates.items()}
    tables = markdown(table(medians)) + "\n" + markdown(latency_table(latencies))
    write("serving", {"engine": str(engine), "texts": args.texts, "rates": dict(rates), "ms": dict(latencies)}, tables)
    bars("serving", "texts/s, over HTTP (64 × 4) or in process", chart(medians))
    print(tables)


def record(samples: dict[str, list[float]], round_: int, name: str, value: float, unit: str) -> None:
    """Add a measurement to its samples and print it."""
    samples[name].append(value)
    print(f"round {round_ + 1}: {name}: {value:.1f} {unit}", flush=True)


def auto_engine() -> Engine:
    """Return the engine that `auto` selects on this machine."""
    folder = ModelFolder(resolve("embedded:sentiment"))
    return select_engine(folder, candidates(None, None), 0.02, usable_cores()).engine


def bare_loops(engine: Engine) -> dict[str, Loop]:
    """Return the baselines without HTTP."""
    loops = {
        PIPELINE: pipeline_loop(),
        "pipeline, batches of 32": pipeline_loop(32),
        "bare float32": engine_loop(REFERENCE),
    }
    return loops if engine == REFERENCE else {**loops, "bare auto": engine_loop(engine)}


def service_starters(peers: list[str]) -> dict[str, Service]:
    """Return the services by name. Each runs for its own measurement only, since an idle one takes CPU time, too."""
    ours: dict[str, Service] = {
        AUTO: lambda: our_service(AUTO),
        FP32: lambda: our_service(FP32, "--backend", "torch", "--dtype", "float32"),
    }
    return ours | {peer.name: partial(running_peer, peer) for peer in ALL_PEERS if peer.name in peers}


def measure_service(
    rates: dict[str, list[float]],
    latencies: dict[str, list[float]],
    round_: int,
    name: str,
    service: Service,
    sample: list[str],
) -> None:
    """Measure one service with each shape of load, after a warmup. A peer that does not start is left out."""
    per_request, share = OPEN_LOOP
    try:
        with service() as target:
            closed_loop(target, sample[: WARMUP[0]], *WARMUP[1:])
            for shape, (size, callers) in SHAPES.items():
                load = check_no_failures(name, closed_loop(target, sample, size, callers))
                record(rates, round_, f"{name} | {shape}", load.texts_per_s, "texts/s")
            requests_per_s = share * rates[PIPELINE][round_] / per_request
            load = check_no_failures(name, open_loop(target, sample, per_request, requests_per_s))
            for part, quantile in ((MEDIAN, 0.5), (P90, 0.9)):
                record(latencies, round_, f"{name} | {part}", load.latency_ms(quantile), "ms")
    except (subprocess.CalledProcessError, TimeoutError) as error:
        print(f"{name} is left out: {error}", flush=True)


def check_no_failures(name: str, load: Load) -> Load:
    """Return the load. Raises AssertionError if any request failed."""
    assert not load.failed, f"{name} failed {load.failed} requests"
    return load


def table(medians: dict[str, float]) -> list[list[str]]:
    """Return the rows of the throughput table, relative to `pipeline(texts)` and to the fastest peer."""
    rows = [["", "texts/s", "× pipeline(texts)", "× fastest peer"]]
    for name, rate in medians.items():
        shape = name.partition(" | ")[2]
        fastest = max((medians.get(f"{peer} | {shape}", 0.0) for peer in PEERS), default=0.0)
        ratio = f"{rate / fastest:.2f}" if shape and fastest else ""
        rows.append([name, f"{rate:.1f}", f"{rate / medians[PIPELINE]:.2f}", ratio])
    return rows


def latency_table(latencies: dict[str, list[float]]) -> list[list[str]]:
    """Return the rows of the open-loop latency table."""
    head = f"open loop: {OPEN_LOOP[0]} texts per request, at {OPEN_LOOP[1]} × the rate of pipeline(texts)"
    names = [name.partition(" | ")[0] for name in latencies if name.endswith(MEDIAN)]
    rows = [[f"{median(latencies[f'{name} | {part}']):.0f}" for part in (MEDIAN, P90)] for name in names]
    return [[head, "median, ms", "p90, ms"], *([name, *row] for name, row in zip(names, rows, strict=True))]


def chart(medians: dict[str, float]) -> dict[str, float]:
    """Return the values of the plot: closed loop with 64 texts × 4 callers, and the bare loops."""
    return {
        name.partition(" | ")[0]: rate for name, rate in medians.items() if "|" not in name or name.endswith("64 × 4")
    }


if __name__ == "__main__":
    main()

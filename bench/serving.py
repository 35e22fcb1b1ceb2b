"""`make bench`: our service, its peers and the bare loops, on the same texts, in turns; the median of the rounds.

Callers that wait for their answers (closed loop) show how much each can do; requests that come at a steady rate, the
same for all (open loop), show how long one waits. Writes `bench/results/serving.json`, a table (`serving.md`) and a
plot (`serving.svg`).
"""

import argparse
import subprocess
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from statistics import median

from bench.baselines import Loop, engine_loop, tutorial
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
"""Texts a request × callers."""
AUTO, FP32 = "remote-rewards auto", "remote-rewards float32"
TUTORIAL = "pipeline(texts)"
STEADY = (16, 0.8)
"""Open loop: texts a request, and what is asked for as a share of what the tutorial's loop can do."""
MEDIAN, P90 = "median", "p90"
TASTE = (192, 64, 3)
"""What everyone is given before it is measured: texts, texts a request, callers."""
Service = Callable[[], AbstractContextManager[Target]]
PEERS = [peer.name for peer in ALL_PEERS]


def main() -> None:
    """Measure, print the table, write the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--texts", type=int, default=768, help="texts a measurement")
    parser.add_argument("--peers", nargs="*", default=PEERS, choices=PEERS)
    args = parser.parse_args()
    chosen, scored = auto_engine(), texts(args.texts)
    loops, services = bare_loops(chosen), served(args.peers)
    for loop in loops.values():
        loop(scored[: TASTE[0]])
    rates: dict[str, list[float]] = defaultdict(list)  # texts a second
    waits: dict[str, list[float]] = defaultdict(list)  # ms
    for round_ in range(args.rounds):
        for name, loop in loops.items():
            note(rates, round_, name, len(scored) / loop(scored), "texts/s")
        for name, service in services.items():
            measure_service(rates, waits, round_, name, service, scored)
    medians = {name: median(values) for name, values in rates.items()}
    tables = markdown(table(medians)) + "\n" + markdown(steady(waits))
    write("serving", {"engine": str(chosen), "texts": args.texts, "rates": dict(rates), "ms": dict(waits)}, tables)
    bars("serving", "texts a second, over HTTP (64 × 4) or in process", chart(medians))
    print(tables)


def note(figures: dict[str, list[float]], round_: int, name: str, figure: float, unit: str) -> None:
    """Keep a measurement and say it."""
    figures[name].append(figure)
    print(f"round {round_ + 1}: {name}: {figure:.1f} {unit}", flush=True)


def auto_engine() -> Engine:
    """Give the engine that `auto` takes here."""
    folder = ModelFolder(resolve("embedded:sentiment"))
    return select_engine(folder, candidates(None, None), 0.02, usable_cores()).engine


def bare_loops(chosen: Engine) -> dict[str, Loop]:
    """Give the ways without HTTP."""
    loops = {TUTORIAL: tutorial(), "pipeline, batches of 32": tutorial(32), "bare float32": engine_loop(REFERENCE)}
    return loops if chosen == REFERENCE else {**loops, "bare auto": engine_loop(chosen)}


def served(peers: list[str]) -> dict[str, Service]:
    """Give the services: each is started for its turn and stopped after it, since an idle one takes time, too."""
    ours: dict[str, Service] = {
        AUTO: lambda: our_service(AUTO),
        FP32: lambda: our_service(FP32, "--backend", "torch", "--dtype", "float32"),
    }
    return ours | {peer.name: partial(running_peer, peer) for peer in ALL_PEERS if peer.name in peers}


def measure_service(
    rates: dict[str, list[float]],
    waits: dict[str, list[float]],
    round_: int,
    name: str,
    service: Service,
    scored: list[str],
) -> None:
    """Measure one service with each shape of load, after a first taste of it."""
    per_request, share = STEADY
    try:
        with service() as target:
            closed_loop(target, scored[: TASTE[0]], *TASTE[1:])
            for shape, (size, callers) in SHAPES.items():
                load = answered(name, closed_loop(target, scored, size, callers))
                note(rates, round_, f"{name} | {shape}", load.texts_per_s, "texts/s")
            requests_per_s = share * rates[TUTORIAL][round_] / per_request
            load = answered(name, open_loop(target, scored, per_request, requests_per_s))
            for part, quantile in ((MEDIAN, 0.5), (P90, 0.9)):
                note(waits, round_, f"{name} | {part}", load.latency_ms(quantile), "ms")
    except (subprocess.CalledProcessError, TimeoutError) as error:
        print(f"{name} is left out: {error}", flush=True)


def answered(name: str, load: Load) -> Load:
    """Give a load of which every request was answered. Raises AssertionError."""
    assert not load.failed, f"{name} failed {load.failed} requests"
    return load


def table(medians: dict[str, float]) -> list[list[str]]:
    """Lay out rates and ratios: the tutorial's loop and the fastest peer are 1."""
    rows = [["", "texts/s", "× pipeline(texts)", "× fastest peer"]]
    for name, rate in medians.items():
        shape = name.partition(" | ")[2]
        fastest = max((medians.get(f"{peer} | {shape}", 0.0) for peer in PEERS), default=0.0)
        ratio = f"{rate / fastest:.2f}" if shape and fastest else ""
        rows.append([name, f"{rate:.1f}", f"{rate / medians[TUTORIAL]:.2f}", ratio])
    return rows


def steady(waits: dict[str, list[float]]) -> list[list[str]]:
    """Lay out how long requests at a steady rate waited."""
    head = f"open loop: {STEADY[0]} texts a request, {STEADY[1]} × pipeline(texts) asked for"
    names = [name.partition(" | ")[0] for name in waits if name.endswith(MEDIAN)]
    rows = [[f"{median(waits[f'{name} | {part}']):.0f}" for part in (MEDIAN, P90)] for name in names]
    return [[head, "median, ms", "p90, ms"], *([name, *row] for name, row in zip(names, rows, strict=True))]


def chart(medians: dict[str, float]) -> dict[str, float]:
    """Take the bars of the plot."""
    return {
        name.partition(" | ")[0]: rate for name, rate in medians.items() if "|" not in name or name.endswith("64 × 4")
    }


if __name__ == "__main__":
    main()

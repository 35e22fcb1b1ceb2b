"""`make bench`: our service, its peers and the bare loops, on the same texts, in turns; the median of the rounds.

Writes `bench/results/serving.json`, a table (`serving.md`) and a plot (`serving.svg`).
"""

import argparse
import contextlib
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator
from statistics import median

from bench.bare import engine_loop, tutorial
from bench.contenders import ALL_PEERS, our_service, running_peer
from bench.load import Target, closed_loop
from bench.report import bars, markdown, write
from bench.texts import texts
from reward_service.backends.choose import choose
from reward_service.backends.engines import REFERENCE, Engine, candidates
from reward_service.backends.model_folder import ModelFolder
from reward_service.cores import usable_cores
from shared.models.store import resolve

SHAPES = {"16 × 4": (16, 4), "1 × 32": (1, 32), "64 × 4": (64, 4)}
"""Texts a request × callers."""
AUTO, FP32 = "remote-rewards auto", "remote-rewards float32"
TUTORIAL = "pipeline(texts)"
PEERS = [peer.name for peer in ALL_PEERS]


def main() -> None:
    """Measure, print the table, write the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--texts", type=int, default=256, help="texts a measurement")
    parser.add_argument("--peers", nargs="*", default=PEERS, choices=PEERS)
    args = parser.parse_args()
    chosen = auto_engine()
    with contextlib.ExitStack() as stack:
        runs = contenders(stack, args.peers, args.texts, chosen)
        rates: dict[str, list[float]] = defaultdict(list)
        for round_ in range(args.rounds):
            for name, run in runs.items():
                rates[name].append(run())
                print(f"round {round_ + 1}: {name}: {rates[name][-1]:.1f} texts/s", flush=True)
    medians = {name: median(values) for name, values in rates.items()}
    rows = table(medians)
    write("serving", {"engine": str(chosen), "texts": args.texts, "rates": dict(rates)}, markdown(rows))
    bars("serving", "texts a second, over HTTP (64 × 4) or in process", chart(medians))
    print(markdown(rows))


def auto_engine() -> Engine:
    """Give the engine that `auto` takes here."""
    folder = ModelFolder(resolve("embedded:sentiment"))
    return choose(folder, candidates(None, None), 0.02, usable_cores()).engine


def contenders(
    stack: contextlib.ExitStack, peers: list[str], count: int, chosen: Engine
) -> dict[str, Callable[[], float]]:
    """Start everything; give for each name a function that measures it once, in texts a second."""
    scored = texts(count)
    loops = {TUTORIAL: tutorial(), "pipeline, batches of 32": tutorial(32), "bare float32": engine_loop(REFERENCE)}
    if chosen != REFERENCE:
        loops["bare auto"] = engine_loop(chosen)
    runs: dict[str, Callable[[], float]] = {
        name: lambda loop=loop: count / loop(scored)  # type: ignore[misc]
        for name, loop in loops.items()
    }
    targets = {
        AUTO: stack.enter_context(our_service(AUTO)),
        FP32: stack.enter_context(our_service(FP32, "--backend", "torch", "--dtype", "float32")),
        **dict(_peers(stack, peers)),
    }
    for shape in SHAPES:
        for name, target in targets.items():
            runs[f"{name} | {shape}"] = lambda target=target, shape=shape: _rate(target, scored, shape)  # type: ignore[misc]
    return runs


def _peers(stack: contextlib.ExitStack, names: list[str]) -> Iterator[tuple[str, Target]]:
    for peer in ALL_PEERS:
        if peer.name in names:
            try:
                yield peer.name, stack.enter_context(running_peer(peer))
            except (subprocess.CalledProcessError, TimeoutError) as error:
                print(f"{peer.name} is left out: {error}", flush=True)


def _rate(target: Target, scored: list[str], shape: str) -> float:
    load = closed_loop(target, scored, *SHAPES[shape])
    assert not load.failed, f"{target.url} failed {load.failed} requests"
    return load.texts_per_s


def table(medians: dict[str, float]) -> list[list[str]]:
    """Lay out rates and ratios: the tutorial's loop and the fastest peer are 1."""
    rows = [["", "texts/s", "× pipeline(texts)", "× fastest peer"]]
    for name, rate in medians.items():
        shape = name.partition(" | ")[2]
        fastest = max((medians.get(f"{peer} | {shape}", 0.0) for peer in PEERS), default=0.0)
        ratio = f"{rate / fastest:.2f}" if shape and fastest else ""
        rows.append([name, f"{rate:.1f}", f"{rate / medians[TUTORIAL]:.2f}", ratio])
    return rows


def chart(medians: dict[str, float]) -> dict[str, float]:
    """Take the bars of the plot."""
    return {
        name.partition(" | ")[0]: rate for name, rate in medians.items() if "|" not in name or name.endswith("64 × 4")
    }


if __name__ == "__main__":
    main()

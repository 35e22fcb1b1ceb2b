"""`make soak`: every trial in full, and one table of what was done and what was lost."""

import argparse
import re
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

from bench.report import machine, told
from tests.soak import abuse, changes, faulty, lasting, load
from tests.soak.base import Outcome

FULL: dict[str, Callable[[], Outcome]] = {
    "T1": lambda: load.invariance(texts=2000, groupings=16),
    "T2": lambda: faulty.many_callers(clients=200, requests=50),
    "T6": lambda: faulty.kills(seconds=60, every_s=5),
    "T8": lambda: faulty.random_faults(requests=10_000),
    "T8b": lambda: faulty.nothing_but_faults(seconds=25),
    "T9": lambda: changes.reloads(times=20),
    "T9b": lambda: changes.reloaded_models(times=20),
    "T10": lambda: changes.drains(times=50),
    "T11": lambda: faulty.slow_callers(connections=200, seconds=10),
    "T12": lambda: abuse.leaving(requests=1000),
    "T15": lambda: load.overload(seconds=30),
    "T16": lambda: load.fairness(seconds=20),
    "T19": lambda: lasting.million(texts=1_000_000),
    "T20": lambda: lasting.many_calls(calls=1_000_000),
    "T21": lambda: lasting.mixed(seconds=1800),
    "T22": lambda: abuse.malformed(requests=10_000),
    "T24": lambda: abuse.torture(texts=5000),
}
MARK = "<!-- written by make soak -->\n"
HEAD = "| trial | what was done | lost | figures (bound) | took | on |\n| --- | --- | --- | --- | --- | --- |\n"


def main() -> int:
    """Run the trials named, or all; bring their rows in the table up to date; give 1 if a promise was not kept."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=main.__doc__)
    parser.add_argument("trials", nargs="*", metavar="TRIAL", help=f"some of {', '.join(FULL)} (default: all)")
    parser.add_argument(
        "--out", type=Path, default=Path("docs/reliability.md"), help="the page that ends with the table"
    )
    args = parser.parse_args()
    chosen = args.trials or list(FULL)
    rows: dict[str, str] = {}
    broken: list[str] = []
    for name in chosen:
        print(f"{name} …", file=sys.stderr, flush=True)
        began_s = time.monotonic()
        outcome = FULL[name]()
        rows[outcome.trial] = row(outcome, time.monotonic() - began_s)
        broken += [f"{outcome.trial}: {each}" for each in outcome.broken + outcome.slow]
        print(rows[outcome.trial], flush=True)
    args.out.write_text(page_with(rows, args.out.read_text(encoding="utf-8")), encoding="utf-8")
    for each in broken:
        print(f"NOT KEPT  {each}", file=sys.stderr)
    return 1 if broken else 0


def page_with(rows: dict[str, str], page: str) -> str:
    """Put rows in the place of those of the same trials, and say when and where."""
    text, _, table = page.partition(MARK)
    known = {line.split(" | ")[0].removeprefix("| "): line for line in table.splitlines() if line.startswith("| T")}
    lines = sorted({**known, **rows}.values(), key=lambda line: int(re.findall(r"\d+", line)[0]))
    return f"{text}{MARK}The latest on: {told(machine())}\n\n{HEAD}" + "\n".join(lines) + "\n"


def row(outcome: Outcome, seconds: float) -> str:
    """Lay one trial out as a line of the table."""
    figures = "; ".join(f"{name} {value}" for name, value in outcome.figures.items())
    return f"| {outcome.trial} | {outcome.done} | {outcome.lost} | {figures} | {seconds:.0f} s | {date.today()} |"


if __name__ == "__main__":
    sys.exit(main())

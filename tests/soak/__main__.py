"""`make soak`: run the soak trials in full and update their rows in docs/reliability.md."""

import argparse
import sys
import time
from datetime import date
from pathlib import Path

from bench.report import describe, machine
from tests.cluster import NAMES
from tests.soak.base import Outcome
from tests.soak.trials import TRIALS

PAGE = Path("docs/reliability.md")
MARKER = "<!-- written by make soak -->\n"
HEADER = "| trial | what was done | lost | figures (bound) | took | on |\n| --- | --- | --- | --- | --- | --- |\n"


def main() -> int:
    """Run the named trials, or all, and update their rows in the table. Returns 1 if a bound was violated."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=main.__doc__)
    parser.add_argument("trials", nargs="*", metavar="TRIAL", help=f"of {', '.join(TRIALS)} (default: all)")
    parser.add_argument("--out", type=Path, default=PAGE, help="the page whose table is updated")
    args = parser.parse_args()
    if unknown := set(args.trials) - set(TRIALS):
        parser.error(f"unknown trials: {', '.join(sorted(unknown))}")
    rows: dict[str, str] = {}
    violations: list[str] = []
    for name in args.trials or TRIALS:
        print(f"{name} …", file=sys.stderr, flush=True)
        started_s = time.monotonic()
        outcome = TRIALS[name].run(TRIALS[name].full)
        rows[name] = table_row(name, outcome, time.monotonic() - started_s)
        violations += [f"{name}: {violation}" for violation in outcome.violations + outcome.timing_violations]
        print(rows[name], flush=True)
    update(args.out, rows)
    for violation in violations:
        print(f"VIOLATED  {violation}", file=sys.stderr)
    return 1 if violations else 0


def update(path: Path, rows: dict[str, str]) -> None:
    """Update these rows of a page's table."""
    path.write_text(updated_page(rows, path.read_text(encoding="utf-8")), encoding="utf-8")


def updated_page(rows: dict[str, str], page: str) -> str:
    """Return the page with these rows in its table, in the order of the trials, and this machine above it."""
    text, _, table = page.partition(MARKER)
    old_rows = {line.split(" | ")[0].removeprefix("| "): line for line in table.splitlines() if line.startswith("| ")}
    all_rows = {**old_rows, **rows}
    lines = [all_rows[name] for name in (*TRIALS, *NAMES) if name in all_rows]
    return f"{text}{MARKER}Latest run on: {describe(machine())}\n\n{HEADER}" + "\n".join(lines) + "\n"


def table_row(name: str, outcome: Outcome, seconds: float) -> str:
    """Return a trial's row of the table."""
    figures = "; ".join(f"{label} {value}" for label, value in outcome.figures.items())
    return f"| {name} | {outcome.done} | {outcome.lost} | {figures} | {seconds:.0f} s | {date.today()} |"


if __name__ == "__main__":
    sys.exit(main())

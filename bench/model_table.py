"""`make model-table`: how each sequence-classification family of transformers is served, as a table in docs/models.md.

A small random model of each family is saved, loaded and probed in each engine, as the service does at its start.
"""

import argparse
import multiprocessing
import os
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.families import families, save_family
from bench.report import markdown
from reward_service.backends.engines import REFERENCE, Engine
from reward_service.backends.model_folder import ModelFolder
from reward_service.backends.probe import Verdict
from reward_service.backends.probe_engine import probe_engine
from reward_service.errors import ConfigError

DOCUMENT = Path(__file__).parents[1] / "docs" / "models.md"
START, END = "<!-- families: written by make model-table -->", "<!-- end of families -->"
ENGINES = (REFERENCE, Engine("openvino", "float32"))
THREADS = 1
HEADINGS = ["model type", "class", "difference in a batch", "engines", "served"]


@dataclass(frozen=True, slots=True)
class Row:
    """How one family is served."""

    kind: str
    verdicts: dict[Engine, Verdict] = field(default_factory=dict)
    reason: str = ""
    """Why it is not served in torch, or could not be tried."""
    tried: bool = True

    @property
    def served(self) -> str:
        """Return how the family is served, in a few words."""
        if not self.tried:
            return f"not tried: {self.reason}"
        if REFERENCE not in self.verdicts:
            return f"refused: {self.reason}"
        return "in batches" if self.verdicts[REFERENCE].batched else "one text at a time"


def try_family(kind: str, engines: Sequence[Engine] = ENGINES) -> Row:
    """Save a small model of a family and probe it in each engine."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / kind
        try:
            save_family(kind, path)
        except Exception as error:  # a family that needs a package or cannot be made small
            return Row(kind, reason=sentence(error), tried=False)
        verdicts, reasons = {}, []
        for engine in engines:
            try:
                verdicts[engine] = probe_engine(ModelFolder(path), engine, THREADS)
            except ConfigError as error:
                reasons.append(sentence(error).replace(f" in {path}", "").removeprefix(f"{kind} "))
        return Row(kind, verdicts, reasons[0] if reasons else "")


def silence() -> None:
    """Discard the output of this process: torch prints the whole graph of a model that it cannot trace."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)


def sentence(error: Exception) -> str:
    """Return the first sentence of an error's message, fit for a table."""
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return line.partition(". ")[0][:300].replace("|", "/")


def table(rows: Sequence[Row]) -> str:
    """Return the rows as Markdown."""
    cells = []
    for row in rows:
        verdict = row.verdicts.get(REFERENCE)
        difference = f"{verdict.difference:.1g}" if verdict else ""
        engines = ", ".join(engine.backend for engine in row.verdicts)
        cells.append([row.kind, families()[row.kind], difference, engines, row.served])
    return markdown([HEADINGS, *cells])


def summary(rows: Sequence[Row]) -> str:
    """Return how many families are served in batches, one text at a time, or not."""
    counts = Counter(row.served.partition(":")[0] for row in rows)
    return ", ".join(f"{count} {served}" for served, count in counts.most_common())


def insert(document: str, content: str) -> str:
    """Return a document with new content between the markers."""
    before, rest = document.split(START)
    return f"{before}{START}\n{content}\n{END}{rest.split(END)[1]}"


def main() -> None:
    """Try all families and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*", help="model types to print; default: all, written to docs/models.md")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    started_s, kinds = time.monotonic(), arguments.families or sorted(families())
    context = multiprocessing.get_context("spawn")
    with context.Pool(arguments.processes, initializer=silence, maxtasksperchild=20) as pool:
        rows = []
        for row in pool.imap(try_family, kinds):
            rows.append(row)
            print(f"{row.kind}: {row.served}", flush=True)
    content = f"{len(rows)} families: {summary(rows)}.\n\n{table(rows)}"
    print(f"{content}\n\n{time.monotonic() - started_s:.0f} s")
    if not arguments.families:
        DOCUMENT.write_text(insert(DOCUMENT.read_text(encoding="utf-8"), content), encoding="utf-8")


if __name__ == "__main__":
    main()

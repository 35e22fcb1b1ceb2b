"""Measured values with their bounds: a benchmark that misses one ends with exit code 1."""

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass

from bench.report import markdown, write

HOLDS = {"≤": operator.le, "<": operator.lt, "≥": operator.ge, "=": math.isclose}


@dataclass(frozen=True)
class Bound:
    """What a measured value must be."""

    sign: str
    limit: float
    unit: str = ""

    def holds(self, value: float) -> bool:
        """Return whether a value keeps the bound; NaN keeps none."""
        return bool(HOLDS[self.sign](value, self.limit))

    def __str__(self) -> str:
        return f"{self.sign} {self.limit:,g} {self.unit}".strip().removeprefix("= ")


def at_most(limit: float, unit: str = "") -> Bound:
    """Return an upper bound."""
    return Bound("≤", limit, unit)


def at_least(limit: float, unit: str = "") -> Bound:
    """Return a lower bound."""
    return Bound("≥", limit, unit)


def exactly(limit: float) -> Bound:
    """Return the bound of a count."""
    return Bound("=", limit)


@dataclass(frozen=True)
class Measured:
    """One row of a table: what was measured, its value, how that is written, such as `{:.1f} ms`, and its bound."""

    what: str
    value: float
    form: str
    bound: Bound | None = None

    @property
    def missed(self) -> bool:
        """Whether the value breaks its bound."""
        return self.bound is not None and not self.bound.holds(self.value)

    @property
    def cells(self) -> list[str]:
        """What is measured, the value and the bound, as text."""
        return [self.what, self.form.format(self.value), "none" if self.bound is None else str(self.bound)]

    def __str__(self) -> str:
        return " | ".join([*self.cells, *(["MISSED"] if self.missed else [])])


def conclude(title: str, rows: Sequence[Measured], *, name: str | None = None) -> int:
    """Print the table and the missed bounds, and write the table to `bench/results` under a name.

    Returns the exit code: 1 if a bound was missed.
    """
    table = markdown([[title, "measured", "target"], *(row.cells for row in rows)])
    if name is not None:
        write(name, {"rows": [row.cells for row in rows]}, table)
    print(table)
    missed = [row for row in rows if row.missed]
    for row in missed:
        print(f"missed: {row.what}: {row.form.format(row.value)}, {row.bound} was the target")
    return 1 if missed else 0

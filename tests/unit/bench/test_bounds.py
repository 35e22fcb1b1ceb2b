import pytest

from bench.bounds import Bound, Measured, at_least, at_most, conclude, exactly


@pytest.mark.parametrize(
    ("value", "bound", "text", "missed"),
    [
        (2.0, at_most(2, "ms"), "≤ 2 ms", False),
        (2.1, at_most(2, "ms"), "≤ 2 ms", True),
        (50, Bound("<", 50), "< 50", True),
        (30_000, at_least(30_000), "≥ 30,000", False),
        (0.79, at_least(0.8), "≥ 0.8", True),
        (0, exactly(0), "0", False),
        (1, exactly(0), "0", True),
        (float("nan"), at_most(2), "≤ 2", True),
        (float("nan"), exactly(0), "0", True),
        (1e9, None, "none", False),
    ],
)
def test_missed_bounds(value, bound, text, missed):
    """A value misses its bound if it lies beyond it or is NaN; without a bound it misses none."""
    row = Measured("latency", value, "{:g}", bound)
    assert (row.missed, row.cells[-1]) == (missed, text)


def test_exit_code(capsys):
    """A benchmark ends with 1 if any bound was missed, and names it; else with 0."""
    kept = Measured("latency", 1.0, "{:.1f} ms", at_most(2, "ms"))
    broken = Measured("lost calls", 3, "{}", exactly(0))
    assert (conclude("what", [kept]), conclude("what", [kept, broken])) == (0, 1)
    output = capsys.readouterr().out
    assert "| latency | 1.0 ms | ≤ 2 ms |" in output
    assert output.endswith("missed: lost calls: 3, 0 was the target\n")

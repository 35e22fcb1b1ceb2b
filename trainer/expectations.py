"""Hold a run against what its recipe claims. Pure."""

from collections.abc import Mapping
from statistics import fmean
from typing import Any

Bounds = Mapping[str, float] | str | None


def check_bounds(expect: Bounds, after: Mapping[str, Any]) -> list[str]:
    """Say for each bound, such as `sampled.vader: 0.7`, whether the mean over the held-out prompts reaches it."""
    return [verdict(key, float(bound), mean_score(key, after)) for key, bound in _items(expect)]


def check_gains(expect: Bounds, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Say for each bound whether the mean rose by that much."""
    lines = []
    for key, bound in _items(expect):
        start, end = mean_score(key, before), mean_score(key, after)
        rise = None if start is None or end is None else end - start
        lines.append(verdict(f"gain in {key}", float(bound), rise))
    return lines


def _items(expect: Bounds) -> list[tuple[str, float]]:
    return list(expect.items()) if isinstance(expect, Mapping) else []


def verdict(key: str, bound: float, value: float | None) -> str:
    """Say one bound's outcome in a line."""
    if value is None:
        return f"not measured: {key} (expected at least {bound:g})"
    return f"{'reached' if value >= bound else 'MISSED'}: {key} {value:.3f} (expected at least {bound:g})"


def mean_score(key: str, evaluation: Mapping[str, Any]) -> float | None:
    """Give the mean of `<decoding>.<judge>` over an evaluation's samples; None where it was not measured."""
    decoding, _, judge = key.partition(".")
    samples = evaluation["decodings"].get(decoding, {}).get("samples", [])
    values = [sample["scores"][judge] for sample in samples if sample["scores"].get(judge) is not None]
    return fmean(values) if values else None

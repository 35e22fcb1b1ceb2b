"""Hold a run against what its recipe claims. Pure."""

from collections.abc import Mapping
from statistics import fmean
from typing import Any


def verdicts(expect: Mapping[str, float] | str | None, after: Mapping[str, Any]) -> list[str]:
    """Say for each bound, such as `sampled.vader: 0.7`, whether the mean over the held-out prompts reaches it."""
    if not isinstance(expect, Mapping):
        return []
    return [verdict(key, float(bound), mean_of(key, after)) for key, bound in expect.items()]


def verdict(key: str, bound: float, value: float | None) -> str:
    """Say one bound's outcome in a line."""
    if value is None:
        return f"not measured: {key} (expected at least {bound:g})"
    return f"{'reached' if value >= bound else 'MISSED'}: {key} {value:.3f} (expected at least {bound:g})"


def mean_of(key: str, evaluation: Mapping[str, Any]) -> float | None:
    """Give the mean of `<decoding>.<judge>` over an evaluation's samples; None where it was not measured."""
    decoding, _, judge = key.partition(".")
    samples = evaluation["decodings"].get(decoding, {}).get("samples", [])
    values = [sample["scores"][judge] for sample in samples if sample["scores"].get(judge) is not None]
    return fmean(values) if values else None

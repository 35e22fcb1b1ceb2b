"""Compare a run's evaluations with the bounds of its recipe. Pure."""

from collections.abc import Mapping
from statistics import fmean
from typing import Any

import yaml

from trainer.errors import TrainerError

Bounds = Mapping[str, float] | str | None


def parse_bounds(name: str, value: Any) -> dict[str, float] | None:
    """Return bounds given as a mapping or as YAML text. Raises `TrainerError` for anything else."""
    bounds = _parse_yaml(value) if isinstance(value, str) else value
    if bounds is None:
        return None
    if not isinstance(bounds, dict) or not all(type(bound) in (int, float) for bound in bounds.values()):
        raise TrainerError(f"--{name} {value!r} is not a mapping of scores to bounds, such as '{{sampled.vader: 0.7}}'")
    return bounds


def _parse_yaml(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def check_bounds(expect: Bounds, after: Mapping[str, Any]) -> list[str]:
    """Return a line for each bound, such as `sampled.vader: 0.7`: whether the mean after training reaches it."""
    return [_outcome(key, bound, mean_score(key, after)) for key, bound in _items(expect)]


def check_gains(expect: Bounds, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return a line for each bound: whether the mean rose by at least that much."""
    lines = []
    for key, bound in _items(expect):
        start, end = mean_score(key, before), mean_score(key, after)
        gain = None if start is None or end is None else end - start
        lines.append(_outcome(f"gain in {key}", bound, gain))
    return lines


def mean_score(key: str, evaluation: Mapping[str, Any]) -> float | None:
    """Return the mean of `<decoding>.<score>` over an evaluation's completions; None if it was not evaluated."""
    decoding, _, name = key.partition(".")
    records = evaluation["decodings"].get(decoding, {}).get("samples", [])
    scores = [record["scores"][name] for record in records if record["scores"].get(name) is not None]
    return fmean(scores) if scores else None


def _items(expect: Bounds) -> list[tuple[str, float]]:
    return [(key, float(bound)) for key, bound in expect.items()] if isinstance(expect, Mapping) else []


def _outcome(key: str, bound: float, value: float | None) -> str:
    if value is None:
        return f"not evaluated: {key} (expected at least {bound:g})"
    return f"{'reached' if value >= bound else 'MISSED'}: {key} {value:.3f} (expected at least {bound:g})"

"""Means and shares with confidence intervals.

Pure: numbers in, `Interval`s out; every random draw comes from the seed passed in. `groups` gives
the prompt of each value: completions of one prompt are correlated, so each prompt counts once.
"""

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from shared.model_store.embedded.calibration import wilson_interval

Floats = NDArray[np.float64]
Groups = Sequence[Hashable]

_SHARE_ENDINGS = ("success", "share", "rate", "frac")


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval, in the unit of the values; `n` is the number of groups."""

    mean: float
    low: float
    high: float
    n: int


def wilson(successes: float, n: int, confidence: float = 0.95) -> Interval:
    """Return a share of `n` trials with Wilson's score interval (1927), whose width does not vanish at 0 and 1.

    `successes` may be a sum of shares if each trial is a prompt with several completions. Raises ValueError
    without trials, and if `successes` lies outside 0 … n.
    """
    if n < 1:
        raise ValueError("wilson needs at least one trial")
    if not 0 <= successes <= n:
        raise ValueError(f"wilson needs successes between 0 and {n}, not {successes}")
    share = successes / n
    low, high = wilson_interval(successes, n, _z(confidence))
    return Interval(share, min(max(0.0, low), share), max(min(1.0, high), share), n)


def share_interval(values: Sequence[float], groups: Groups | None = None, confidence: float = 0.95) -> Interval:
    """Return the mean of shares (each 0 … 1) with Wilson's interval, one trial a group.

    Group means vary at most as much as single trials, so with several completions a prompt the interval is
    too wide rather than too narrow. Raises ValueError without values.
    """
    sums, _ = _group_sums(values, groups)
    return wilson(float(np.mean(values)) * len(sums), len(sums), confidence)


def bootstrap_mean(
    values: Sequence[float],
    seed: int = 0,
    resamples: int = 2000,
    *,
    groups: Groups | None = None,
    confidence: float = 0.95,
) -> Interval:
    """Return a mean with its percentile bootstrap interval (Efron 1979); whole groups are resampled.

    For a single group and for equal values the interval has zero width. Raises ValueError without values.
    """
    sums, counts = _group_sums(values, groups)
    picks = np.random.default_rng(seed).integers(0, len(sums), (resamples, len(sums)))  # (resamples, groups)
    means = sums[picks].sum(axis=1) / counts[picks].sum(axis=1)  # (resamples,)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    mean = float(sums.sum() / counts.sum())
    return Interval(mean, min(float(low), mean), max(float(high), mean), len(sums))


def paired_bootstrap(
    before: Sequence[float],
    after: Sequence[float],
    groups: Groups | None = None,
    *,
    seed: int = 0,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> Interval:
    """Return the mean of `after - before` over pairs, resampling the prompts (Efron and Tibshirani 1993).

    Raises ValueError without pairs, and if the two differ in length.
    """
    differences = [last - first for first, last in _pairs(before, after)]
    return bootstrap_mean(differences, seed, resamples, groups=groups, confidence=confidence)


def share_difference(
    before: Sequence[float], after: Sequence[float], groups: Groups | None = None, confidence: float = 0.95
) -> Interval:
    """Return the paired difference of two shares, 0 … 1, with an interval combined from their Wilson intervals.

    After Newcombe (1998) and Zou and Donner (2008). Unlike a bootstrap interval, it has a width even if every
    prompt went from 0 to 1. Raises ValueError as `paired_bootstrap` does.
    """
    _pairs(before, after)
    first, last = (share_interval(values, groups, confidence) for values in (before, after))
    rho = _correlation(_group_means(before, groups), _group_means(after, groups))
    difference = last.mean - first.mean
    down = _combine(last.mean - last.low, first.high - first.mean, rho)
    up = _combine(last.high - last.mean, first.mean - first.low, rho)
    return Interval(difference, max(-1.0, difference - down), min(1.0, difference + up), first.n)


def is_share(name: str, values: Iterable[float]) -> bool:
    """Return whether a metric is a share: its values are in 0 … 1, and its name says so or they are only 0 and 1."""
    distinct = set(values)
    return all(0 <= value <= 1 for value in distinct) and (name.endswith(_SHARE_ENDINGS) or distinct == {0.0, 1.0})


def _z(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, not at {confidence}")
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def _pairs(before: Sequence[float], after: Sequence[float]) -> list[tuple[float, float]]:
    if len(before) != len(after):
        raise ValueError(f"there are {len(before)} values before but {len(after)} after: pairs need as many of each")
    return list(zip(before, after, strict=True))


def _group_sums(values: Sequence[float], groups: Groups | None) -> tuple[Floats, Floats]:
    """Return the sum and the count of each group's values: two arrays of shape (groups,)."""
    if not len(values):
        raise ValueError("there is no value to estimate a mean from")
    if not np.isfinite(values).all():
        raise ValueError("a value to estimate a mean from is not finite")
    keys: Groups = range(len(values)) if groups is None else groups
    if len(keys) != len(values):
        raise ValueError(f"there are {len(values)} values but {len(keys)} groups")
    index_of = {key: index for index, key in enumerate(dict.fromkeys(keys))}
    indices = np.array([index_of[key] for key in keys])
    sums, counts = np.bincount(indices, weights=np.asarray(values)), np.bincount(indices)
    return sums.astype(np.float64), counts.astype(np.float64)


def _group_means(values: Sequence[float], groups: Groups | None) -> Floats:
    sums, counts = _group_sums(values, groups)
    return sums / counts


def _correlation(first: Floats, second: Floats) -> float:
    """Return Pearson's correlation; 0 if either side is constant."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def _combine(one: float, other: float, rho: float) -> float:
    return math.sqrt(max(0.0, one * one - 2 * rho * one * other + other * other))

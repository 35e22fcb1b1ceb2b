"""Estimate means, shares and diversity, each mean with the interval that it deserves.

Numbers and texts enter; `Interval`s and shares leave. Pure: every random draw comes from the seed passed in.
`groups` names the prompt behind each value: replies to one prompt resemble each other, so it counts once.
"""

import math
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Groups = Sequence[Hashable]

# Scripts written without spaces count a character as a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_]+(?:['\u2019][^\W_]+)*")
_SHARE_ENDINGS = ("success", "share", "rate", "frac")


@dataclass(frozen=True)
class Interval:
    """A mean and the bounds that should hold it, in the unit of its values; `n` counts its groups."""

    mean: float
    low: float
    high: float
    n: int


def wilson(successes: float, n: int, confidence: float = 0.95) -> Interval:
    """Bound a share of `n` trials by Wilson's score interval (1927), which stays honest at 0 and at 1.

    `successes` may be a sum of shares, where each trial is a prompt with several replies. Raises ValueError
    where there was no trial, or where `successes` lies outside 0 … n.
    """
    if n < 1:
        raise ValueError("wilson needs at least one trial")
    if not 0 <= successes <= n:
        raise ValueError(f"wilson needs successes between 0 and {n}, not {successes}")
    z = _z(confidence)
    share, scale = successes / n, 1 + z * z / n
    center = (share + z * z / (2 * n)) / scale
    reach = z / scale * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = max(0.0, center - reach), min(1.0, center + reach)
    return Interval(share, min(low, share), max(high, share), n)


def share_interval(values: Sequence[float], groups: Groups | None = None, confidence: float = 0.95) -> Interval:
    """Bound the mean of shares (each 0 … 1) by Wilson's interval with as many trials as there are groups.

    Group means of shares vary at most as much as single trials do, so with several replies to a prompt the
    interval is too wide rather than too narrow. Raises ValueError without values.
    """
    sums, _ = _grouped(values, groups)
    return wilson(float(np.mean(values)) * len(sums), len(sums), confidence)


def bootstrap_mean(
    values: Sequence[float],
    seed: int = 0,
    resamples: int = 2000,
    *,
    groups: Groups | None = None,
    confidence: float = 0.95,
) -> Interval:
    """Bound a mean by the percentile bootstrap (Efron 1979), drawing whole groups with replacement.

    A single group, or values that are all equal, give an interval of zero width. Raises ValueError without
    values.
    """
    sums, counts = _grouped(values, groups)
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
    """Bound the mean of `after - before`, pair by pair, resampling the prompts (Efron and Tibshirani 1993).

    Raises ValueError where there is no pair, or where the two differ in length.
    """
    gaps = [last - first for first, last in _pairs(before, after)]
    return bootstrap_mean(gaps, seed, resamples, groups=groups, confidence=confidence)


def share_difference(
    before: Sequence[float], after: Sequence[float], groups: Groups | None = None, confidence: float = 0.95
) -> Interval:
    """Bound the paired difference of two shares, 0 … 1, by joining their Wilson intervals.

    After Newcombe (1998) and Zou and Donner (2008). Unlike a bootstrap it keeps a width where every prompt
    went from 0 to 1. Raises ValueError as `paired_bootstrap` does.
    """
    _pairs(before, after)
    first, last = (share_interval(values, groups, confidence) for values in (before, after))
    rho = _correlation(_group_means(before, groups), _group_means(after, groups))
    gap = last.mean - first.mean
    down = _join(last.mean - last.low, first.high - first.mean, rho)
    up = _join(last.high - last.mean, first.mean - first.low, rho)
    return Interval(gap, max(-1.0, gap - down), min(1.0, gap + up), first.n)


def is_share(name: str, values: Iterable[float]) -> bool:
    """Say whether a metric reads as a percentage: all in 0 … 1, and named so or made of 0 and 1 only."""
    seen = set(values)
    return all(0 <= value <= 1 for value in seen) and (name.endswith(_SHARE_ENDINGS) or seen == {0.0, 1.0})


def words(text: str) -> list[str]:
    """Split a text into lower-case words without punctuation."""
    return _WORD.findall(text.lower())


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Share of different n-grams among all n-grams of all texts (Li et al. 2016); 0 where no text has n.

    It falls as texts grow longer, so compare texts of like length. Raises ValueError without texts or for
    n < 1.
    """
    if n < 1:
        raise ValueError(f"distinct_n needs n of at least 1, not {n}")
    grams = [gram for text in _some(texts) for gram in _ngrams(text, n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def repeated_trigram_share(texts: Sequence[str]) -> float:
    """Share of 3-grams that already occurred in the same text; 0 where no text has three words.

    Raises ValueError without texts.
    """
    grams = [_ngrams(text, 3) for text in _some(texts)]
    total = sum(map(len, grams))
    return (total - sum(len(set(each)) for each in grams)) / total if total else 0.0


def most_common(texts: Sequence[str]) -> tuple[str, int]:
    """Find the commonest text, the first of equals, and how often it occurs; outer spaces do not count."""
    return Counter(text.strip() for text in _some(texts)).most_common(1)[0]


def most_common_share(texts: Sequence[str]) -> float:
    """Share of the texts that equal the commonest one. Raises ValueError without texts."""
    return most_common(texts)[1] / len(texts)


def _z(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence lies between 0 and 1, not at {confidence}")
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def _some(texts: Sequence[str]) -> Sequence[str]:
    if not texts:
        raise ValueError("there is no text to measure")
    return texts


def _ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    found = words(text)
    return [tuple(found[start : start + n]) for start in range(len(found) - n + 1)]


def _pairs(before: Sequence[float], after: Sequence[float]) -> list[tuple[float, float]]:
    if len(before) != len(after):
        raise ValueError(f"pairs need as many values before ({len(before)}) as after ({len(after)})")
    return list(zip(before, after, strict=True))


def _grouped(values: Sequence[float], groups: Groups | None) -> tuple[Floats, Floats]:
    """Add up and count the values of each group: two arrays of shape (groups,)."""
    if not len(values):
        raise ValueError("there is no value to estimate a mean from")
    if not np.isfinite(values).all():
        raise ValueError("a value to estimate a mean from is not finite")
    keys: Groups = range(len(values)) if groups is None else groups
    if len(keys) != len(values):
        raise ValueError(f"there are {len(values)} values but {len(keys)} groups")
    index = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    places = np.array([index[key] for key in keys])
    sums, counts = np.bincount(places, weights=np.asarray(values)), np.bincount(places)
    return sums.astype(np.float64), counts.astype(np.float64)


def _group_means(values: Sequence[float], groups: Groups | None) -> Floats:
    sums, counts = _grouped(values, groups)
    return sums / counts


def _correlation(first: Floats, second: Floats) -> float:
    """Pearson's correlation, 0 where either side is constant."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def _join(one: float, other: float, rho: float) -> float:
    return math.sqrt(max(0.0, one * one - 2 * rho * one * other + other * other))

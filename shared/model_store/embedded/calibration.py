"""Figures that say how good predictions are. Pure: numbers in, numbers out, no torch."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

BINS = 15


@dataclass(frozen=True)
class Bin:
    """Predictions of about equal confidence, and how often they were right."""

    n: int
    confidence: float
    accuracy: float


def reliability(confidences: ArrayLike, correct: ArrayLike, bins: int = BINS) -> list[Bin]:
    """Group predictions into bins of equal width, (0, 1/bins] the first; empty bins are left out."""
    confidence, right = np.asarray(confidences, dtype=float), np.asarray(correct, dtype=float)
    number = np.clip(np.ceil(confidence * bins) - 1, 0, bins - 1).astype(int)
    members = [number == index for index in range(bins)]
    return [
        Bin(int(inside.sum()), float(confidence[inside].mean()), float(right[inside].mean()))
        for inside in members
        if inside.any()
    ]


def expected_calibration_error(confidences: ArrayLike, correct: ArrayLike, bins: int = BINS) -> float:
    """Give the mean distance of confidence and accuracy, weighted by bin (Guo et al., ICML 2017)."""
    groups = reliability(confidences, correct, bins)
    total = sum(group.n for group in groups)
    return sum(group.n * abs(group.confidence - group.accuracy) for group in groups) / total if total else 0.0


def spearman(first: ArrayLike, second: ArrayLike) -> float:
    """Give the rank correlation; equal values share their mean rank. 0 where one of the two is constant."""
    one, other = ranks(first), ranks(second)
    one, other = one - one.mean(), other - other.mean()
    scale = math.sqrt(float(one @ one) * float(other @ other))
    return float(one @ other) / scale if scale else 0.0


def ranks(values: ArrayLike) -> NDArray[np.float64]:
    """Rank from 1 up; equal values share the mean of their ranks."""
    _, place, counts = np.unique(np.asarray(values, dtype=float), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((2 * last - counts + 1) / 2)[place]


def wilson(successes: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Give the 95 % interval of a share (Wilson, 1927)."""
    if n == 0:
        return 0.0, 1.0
    share, spread = successes / n, z * z / n
    half = z * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    return (share + spread / 2 - half) / (1 + spread), (share + spread / 2 + half) / (1 + spread)

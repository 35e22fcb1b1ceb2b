"""Calibration and rank correlation of predictions, and the interval of a proportion. Pure functions, no torch."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

BINS = 15


@dataclass(frozen=True)
class ReliabilityBin:
    """A bin of predictions with similar confidence, their mean confidence and their accuracy."""

    n: int
    confidence: float
    accuracy: float


def reliability_bins(confidences: ArrayLike, correct: ArrayLike, bins: int = BINS) -> list[ReliabilityBin]:
    """Group predictions into bins of equal width, the first being (0, 1/bins]. Empty bins are omitted."""
    confidence, is_correct = np.asarray(confidences, dtype=float), np.asarray(correct, dtype=float)
    number = np.clip(np.ceil(confidence * bins) - 1, 0, bins - 1).astype(int)
    members = [number == index for index in range(bins)]
    return [
        ReliabilityBin(int(inside.sum()), float(confidence[inside].mean()), float(is_correct[inside].mean()))
        for inside in members
        if inside.any()
    ]


def expected_calibration_error(confidences: ArrayLike, correct: ArrayLike, bins: int = BINS) -> float:
    """Return the mean difference of confidence and accuracy, weighted by bin size (Guo et al., ICML 2017)."""
    groups = reliability_bins(confidences, correct, bins)
    total = sum(group.n for group in groups)
    return sum(group.n * abs(group.confidence - group.accuracy) for group in groups) / total if total else 0.0


def spearman(first: ArrayLike, second: ArrayLike) -> float:
    """Return Spearman's rank correlation; ties share their mean rank. 0 if either input is constant."""
    one, other = ranks(first), ranks(second)
    one, other = one - one.mean(), other - other.mean()
    scale = math.sqrt(float(one @ one) * float(other @ other))
    return float(one @ other) / scale if scale else 0.0


def ranks(values: ArrayLike) -> NDArray[np.float64]:
    """Return ranks from 1; ties share their mean rank."""
    _, group, counts = np.unique(np.asarray(values, dtype=float), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((2 * last - counts + 1) / 2)[group]


def wilson_interval(successes: float, n: float, z: float = 1.96) -> tuple[float, float]:
    """Return Wilson's score interval of a proportion (1927), by default at 95 %."""
    if n == 0:
        return 0.0, 1.0
    share, spread = successes / n, z * z / n
    half_width = z * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    return (share + spread / 2 - half_width) / (1 + spread), (share + spread / 2 + half_width) / (1 + spread)

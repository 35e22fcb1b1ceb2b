"""Held-out metrics of a reward model. Pure: scores, lengths and ratings in, metrics out.

A Bradley-Terry model says that the first of two texts is better with probability sigmoid(difference of their scores);
calibration compares these probabilities with the share of pairs that it orders right.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shared.model_store.embedded.calibration import (
    expected_calibration_error,
    reliability_bins,
    spearman,
    wilson_interval,
)

CLEAR_FROM = 0.5
"""Smallest |rating| of a clearly negative or positive sentence."""

Floats = NDArray[np.float64]
Metrics = dict[str, Any]


def pair_metrics(
    scores: ArrayLike,
    chosen: ArrayLike,
    rejected: ArrayLike,
    *,
    lengths: ArrayLike,
    sources: Sequence[str],
) -> Metrics:
    """Return accuracy, calibration and the accuracy of "longer is better", overall and by source.

    `scores`, `lengths` (characters) and `sources` are of each text; `chosen` and `rejected` hold the positions of each
    pair's texts, both of one source.
    """
    better, worse = np.asarray(chosen, dtype=np.intp), np.asarray(rejected, dtype=np.intp)
    score, length = np.asarray(scores, dtype=float), np.asarray(lengths, dtype=float)
    differences = score[better] - score[worse]
    longer = (1 + np.sign(length[better] - length[worse])) / 2

    def metrics(rows: Any) -> Metrics:
        right = differences[rows] > 0
        return {
            "pairs": len(right),
            "accuracy": _rounded(right.mean()) if len(right) else None,
            "accuracy_95": [_rounded(end) for end in accuracy_interval(right, better[rows], worse[rows])],
            "length_accuracy": _rounded(longer[rows].mean()) if len(right) else None,
        }

    pair_sources = np.array(sources, dtype=object)[better]
    return {**metrics(slice(None)), **_calibration(differences), "by_source": by_source(pair_sources, metrics)}


def accuracy_interval(
    right: NDArray[np.bool_], chosen: NDArray[np.intp], rejected: NDArray[np.intp]
) -> tuple[float, float]:
    """Return the 95 % interval of the share of pairs that are right: Wilson's, of as many pairs as vary independently.

    Pairs that share a text are right or wrong together. The variance of the share counts that (dyadic cluster-robust:
    Aronow, Samii & Assenova, Political Analysis 2015), and pairs without a common text count in full.
    """
    texts = np.concatenate([chosen, rejected])
    if not len(texts):
        return wilson_interval(0, 0)
    share = float(right.mean())
    errors = right - share
    independent = float(errors @ errors)
    by_text = np.bincount(texts, np.concatenate([errors, errors]))
    variance = max(float(by_text @ by_text) - independent, independent) / len(right) ** 2
    pairs = share * (1 - share) / variance if variance else len(np.unique(texts)) / 2
    return wilson_interval(share * pairs, pairs)


def _calibration(differences: Floats) -> Metrics:
    confidence, right = 1 / (1 + np.exp(-np.abs(differences))), differences > 0
    bins = [asdict(group) for group in reliability_bins(confidence, right)]
    return {
        "log_loss": _rounded(np.logaddexp(0, -differences).mean()) if len(differences) else None,
        "ece": _rounded(expected_calibration_error(confidence, right)),
        "reliability": [{key: _rounded(value) for key, value in row.items()} for row in bins],
    }


def rating_metrics(scores: ArrayLike, ratings: ArrayLike, sources: Sequence[str]) -> Metrics:
    """Return the rank correlation of scores and ratings, and how often their signs agree, overall and by source."""
    score, rating = np.asarray(scores, dtype=float), np.asarray(ratings, dtype=float)

    def metrics(rows: Any) -> Metrics:
        clear = np.abs(rating[rows]) >= CLEAR_FROM
        agrees = ((score[rows] > 0) == (rating[rows] > 0))[clear]
        return {
            "texts": len(clear),
            "spearman": _rounded(spearman(score[rows], rating[rows])),
            "clear": int(clear.sum()),
            "sign_accuracy": _rounded(agrees.mean()) if len(agrees) else None,
        }

    return {**metrics(slice(None)), "by_source": by_source(sources, metrics)}


def by_source(sources: Sequence[str] | NDArray[np.object_], metrics: Callable[[Any], Metrics]) -> dict[str, Metrics]:
    """Return the metrics of each source's rows; nothing where no source is named."""
    names = np.array(sources, dtype=object)
    return {name: metrics(names == name) for name in dict.fromkeys(sources) if name}


def neutral_score(scores: ArrayLike, ratings: ArrayLike | None = None) -> float:
    """Return the score that means neither good nor bad: a Bradley-Terry model is trained on differences alone.

    With ratings it is the score at rating 0 on the least-squares line; without, the mean score of the pairs' texts.
    """
    score = np.asarray(scores, dtype=float)
    if ratings is None:
        return float(score.mean())
    rating = np.asarray(ratings, dtype=float)
    slope = float(np.cov(rating, score)[0, 1] / rating.var(ddof=1)) if np.ptp(rating) else 0.0
    return float(score.mean() - slope * rating.mean())


def _rounded(value: float) -> float:
    return round(float(value), 4) if not isinstance(value, int) else value

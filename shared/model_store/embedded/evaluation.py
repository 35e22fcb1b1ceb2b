"""Held-out metrics of the sentiment models. Pure: model outputs and ratings in, metrics out.

Accuracy and calibration are over the sentences with a clear sign; rank correlation and error are over all.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.model_store.embedded.calibration import (
    expected_calibration_error,
    reliability_bins,
    spearman,
    wilson_interval,
)
from shared.model_store.embedded.ratings import FILES, Rating

Floats = NDArray[np.float64]


def evaluate(outputs: Floats, held_out: Sequence[Rating], *, clear_from: float, unit: float) -> dict[str, Any]:
    """Return all metrics, overall and by source.

    `outputs`, (texts, 3), holds the logits of negative and positive and the rating in units of `unit`.
    """
    sources = np.array([rating.source for rating in held_out])
    ratings = np.array([rating.rating for rating in held_out])
    positive, predicted = 1 / (1 + np.exp(outputs[:, 0] - outputs[:, 1])), outputs[:, 2] * unit
    by_source = {
        source: _accuracy_metrics(positive[rows], predicted[rows], ratings[rows], clear_from)
        for source in FILES
        if (rows := sources == source).any()
    }
    return {
        **_accuracy_metrics(positive, predicted, ratings, clear_from),
        **_calibration_metrics(positive, ratings, clear_from),
        "by_source": by_source,
    }


def _accuracy_metrics(positive: Floats, predicted: Floats, ratings: Floats, clear_from: float) -> dict[str, Any]:
    clear = np.abs(ratings) >= clear_from
    correct = ((positive > 0.5) == (ratings > 0))[clear]
    return {
        "texts": len(ratings),
        "clear": int(clear.sum()),
        "accuracy": _rounded(correct.mean()) if len(correct) else None,
        "accuracy_95": [_rounded(end) for end in wilson_interval(int(correct.sum()), len(correct))],
        "spearman": _rounded(spearman(predicted, ratings)),
        "rating_rmse": _rounded(np.sqrt(np.mean((predicted - ratings) ** 2))),
    }


def _calibration_metrics(positive: Floats, ratings: Floats, clear_from: float) -> dict[str, Any]:
    clear = np.abs(ratings) >= clear_from
    confidence = np.maximum(positive, 1 - positive)[clear]
    correct = ((positive > 0.5) == (ratings > 0))[clear]
    bins = [asdict(group) for group in reliability_bins(confidence, correct)]
    return {
        "ece": _rounded(expected_calibration_error(confidence, correct)),
        "reliability": [{key: _rounded(value) for key, value in row.items()} for row in bins],
    }


def _rounded(value: float) -> float:
    return round(float(value), 4) if not isinstance(value, int) else value

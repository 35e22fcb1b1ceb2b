"""What the sentiment models do on texts they never saw. Pure: outputs and ratings in, figures out.

Accuracy and calibration are over the sentences whose sign is clear, rank correlation and error over all.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.model_store.embedded.calibration import expected_calibration_error, reliability, spearman, wilson
from shared.model_store.embedded.ratings import FILES, Rating

Floats = NDArray[np.float64]


def figures(outputs: Floats, held_out: Sequence[Rating], *, clear_from: float, unit: float) -> dict[str, Any]:
    """Give all figures, overall and by source. `outputs` has a column each for negative, positive, rating."""
    sources = np.array([rating.source for rating in held_out])
    ratings = np.array([rating.rating for rating in held_out])
    positive, predicted = 1 / (1 + np.exp(outputs[:, 0] - outputs[:, 1])), outputs[:, 2] * unit
    by_source = {
        source: _summary(positive[rows], predicted[rows], ratings[rows], clear_from)
        for source in FILES
        if (rows := sources == source).any()
    }
    return {
        **_summary(positive, predicted, ratings, clear_from),
        **_calibration(positive, ratings, clear_from),
        "by_source": by_source,
    }


def _summary(positive: Floats, predicted: Floats, ratings: Floats, clear_from: float) -> dict[str, Any]:
    clear = np.abs(ratings) >= clear_from
    right = ((positive > 0.5) == (ratings > 0))[clear]
    return {
        "texts": len(ratings),
        "clear": int(clear.sum()),
        "accuracy": _rounded(right.mean()) if len(right) else None,
        "accuracy_95": [_rounded(end) for end in wilson(int(right.sum()), len(right))],
        "spearman": _rounded(spearman(predicted, ratings)),
        "rating_rmse": _rounded(np.sqrt(np.mean((predicted - ratings) ** 2))),
    }


def _calibration(positive: Floats, ratings: Floats, clear_from: float) -> dict[str, Any]:
    clear = np.abs(ratings) >= clear_from
    confidence = np.maximum(positive, 1 - positive)[clear]
    right = ((positive > 0.5) == (ratings > 0))[clear]
    groups = [asdict(group) for group in reliability(confidence, right)]
    return {
        "ece": _rounded(expected_calibration_error(confidence, right)),
        "reliability": [{key: _rounded(value) for key, value in group.items()} for group in groups],
    }


def _rounded(value: float) -> float:
    return round(float(value), 4) if not isinstance(value, int) else value

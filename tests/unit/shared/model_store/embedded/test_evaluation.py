import numpy as np
import pytest

from shared.model_store.embedded.evaluation import evaluate
from shared.model_store.embedded.ratings import Rating


def test_metrics_are_overall_and_by_source():
    """Metrics are computed over all texts and for each source."""
    held_out = [
        Rating("films", 3.0, "a"),
        Rating("films", -2.0, "b"),
        Rating("tweets", 1.0, "c"),
        Rating("tweets", 0.1, "d"),
    ]
    outputs = np.array([[0.0, 3.0, 1.5], [3.0, 0.0, -1.0], [3.0, 0.0, 0.5], [0.0, 3.0, 0.05]])
    metrics = evaluate(outputs, held_out, clear_from=0.5, unit=2.0)
    assert (metrics["texts"], metrics["clear"]) == (4, 3)
    assert metrics["accuracy"] == pytest.approx(2 / 3, abs=1e-4)
    assert metrics["spearman"] == 1.0
    assert metrics["rating_rmse"] == 0.0
    assert metrics["ece"] == pytest.approx(1 / (1 + np.exp(-3)) - 2 / 3, abs=1e-3)
    assert {source: part["accuracy"] for source, part in metrics["by_source"].items()} == {
        "films": 1.0,
        "tweets": 0.0,
    }

import numpy as np
import pytest

from trainer.reward_model.report import neutral_score, pair_metrics, rating_metrics


def test_accuracy():
    """A pair is right where the chosen text scores higher; a tie is wrong. Longer texts may tie by half."""
    metrics = pair_metrics([1, 2, 3, 0], [0, 2, 5, -1], lengths=[(2, 1), (1, 2), (3, 3), (9, 1)], sources=[*"aabb"])
    assert (metrics["pairs"], metrics["accuracy"], metrics["length_accuracy"]) == (4, 0.5, 0.625)
    assert {name: row["accuracy"] for name, row in metrics["by_source"].items()} == {"a": 0.5, "b": 0.5}
    assert metrics["accuracy_95"][0] < 0.5 < metrics["accuracy_95"][1]


def test_interval_counts_texts_once():
    """With several pairs of each text the interval is that of as many pairs as there are texts for."""
    once = pair_metrics([1] * 90 + [0] * 10, [0.5] * 100, lengths=[(1, 1)] * 100, sources=[""] * 100)
    often = pair_metrics(
        ([1] * 90 + [0] * 10) * 5, [0.5] * 500, lengths=[(1, 1)] * 500, sources=[""] * 500, pairs_per_text=5
    )
    assert often["pairs"] == 500
    assert (often["accuracy"], often["accuracy_95"]) == (once["accuracy"], once["accuracy_95"])


def test_calibration():
    """Outcomes drawn with the Bradley-Terry probabilities are calibrated, and twice the differences are not."""
    generator = np.random.default_rng(0)
    differences = generator.normal(0, 2, 20_000)
    outcomes = np.where(generator.random(20_000) < 1 / (1 + np.exp(-differences)), differences, -differences)
    settings = {"lengths": [(1, 1)] * 20_000, "sources": [""] * 20_000}
    right, sharp = (pair_metrics(factor * outcomes, 0 * outcomes, **settings) for factor in (1, 2))
    assert right["ece"] < 0.01 < 0.05 < sharp["ece"]
    assert right["log_loss"] < sharp["log_loss"]
    assert right["by_source"] == {}


def test_rating_metrics():
    """Signs are compared where people are clear, ranks everywhere."""
    metrics = rating_metrics([-2, 0.1, 3, -1], [-3, -0.2, 2, 0.6], ["a", "a", "b", "b"])
    assert (metrics["texts"], metrics["clear"], metrics["sign_accuracy"]) == (4, 3, 0.6667)
    assert metrics["by_source"]["a"]["spearman"] == 1.0


def test_neutral_score():
    """With ratings the neutral score is that of rating 0, whatever their mean; without, the mean."""
    ratings = np.array([0.5, 1, 2, 4])
    assert neutral_score(3 * ratings - 7, ratings) == pytest.approx(-7)
    assert neutral_score([1, 2, 6]) == 3
    assert neutral_score([1, 2, 6], [1, 1, 1]) == 3


def test_no_pairs():
    """Without held-out pairs there is no accuracy, and no error."""
    metrics = pair_metrics([], [], lengths=[], sources=[])
    assert (metrics["pairs"], metrics["accuracy"], metrics["log_loss"]) == (0, None, None)

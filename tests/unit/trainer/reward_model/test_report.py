import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.model_store.embedded.calibration import wilson_interval
from trainer.reward_model.report import accuracy_interval, neutral_score, pair_metrics, rating_metrics


def disjoint(chosen, rejected):
    """Return the arguments of pairs that share no text."""
    pairs = len(chosen)
    lengths, sources = [1] * (2 * pairs), [""] * (2 * pairs)
    return [*chosen, *rejected], range(pairs), range(pairs, 2 * pairs), {"lengths": lengths, "sources": sources}


def test_accuracy():
    """A pair is right where the chosen text scores higher; a tie is wrong. Longer texts may tie by half."""
    lengths, sources = [2, 1, 3, 9, 1, 2, 3, 1], [*"aabb", *"aabb"]
    metrics = pair_metrics([1, 2, 3, 0, 0, 2, 5, -1], range(4), range(4, 8), lengths=lengths, sources=sources)
    assert (metrics["pairs"], metrics["accuracy"], metrics["length_accuracy"]) == (4, 0.5, 0.625)
    assert {name: row["accuracy"] for name, row in metrics["by_source"].items()} == {"a": 0.5, "b": 0.5}
    assert metrics["accuracy_95"][0] < 0.5 < metrics["accuracy_95"][1]


@given(st.lists(st.booleans(), min_size=1, max_size=200))
def test_interval_of_disjoint_pairs(right):
    """Where no pairs share a text, the interval is Wilson's."""
    first = np.arange(len(right))
    interval = accuracy_interval(np.array(right), first, first + len(right))
    assert interval == pytest.approx(wilson_interval(sum(right), len(right)))


def test_interval_of_all_pairs():
    """Over all pairs of texts, 95 % of the intervals hold the true accuracy; as if no pairs shared a text, few do."""
    generator, texts, noise = np.random.default_rng(1), 100, 0.5
    truth = 1 - np.arccos(1 / np.sqrt(1 + noise**2)) / np.pi  # of two normal variables with such noise
    better, worse = np.triu_indices(texts, 1)
    clustered, independent = [], []
    for _ in range(300):
        people = np.sort(generator.normal(size=texts))[::-1]
        scores = people + generator.normal(scale=noise, size=texts)
        right = scores[better] > scores[worse]
        clustered.append(accuracy_interval(right, better, worse))
        independent.append(wilson_interval(right.sum(), len(right)))
    held, narrow = (np.mean([low <= truth <= high for low, high in rows]) for rows in (clustered, independent))
    assert narrow < 0.7 < 0.9 < held < 0.99


def test_calibration():
    """Outcomes drawn with the Bradley-Terry probabilities are calibrated, and twice the differences are not."""
    generator = np.random.default_rng(0)
    differences = generator.normal(0, 2, 20_000)
    outcomes = np.where(generator.random(20_000) < 1 / (1 + np.exp(-differences)), differences, -differences)
    right, sharp = (
        pair_metrics(*pairs, **texts) for *pairs, texts in (disjoint(by * outcomes, 0 * outcomes) for by in (1, 2))
    )
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
    metrics = pair_metrics([], [], [], lengths=[], sources=[])
    assert (metrics["pairs"], metrics["accuracy"], metrics["log_loss"]) == (0, None, None)

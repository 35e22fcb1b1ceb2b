import math
from itertools import pairwise

import pytest

from reward_service.errors import ConfigError
from reward_service.rewards.values import check_labels, factor, score_from_logits, value_range
from reward_service.specs import ClassifierSpec, RegressorSpec
from tests.conftest import cases

SENTIMENT = ClassifierSpec(model="m", labels={"POSITIVE": 2.0, "*": -1.0})
STARS = [f"{star} stars" for star in range(1, 6)]
EXPECTED_STARS = ClassifierSpec(
    model="m", value="expected", labels={label: float(star) for star, label in enumerate(STARS, 1)}
)


class Model:
    """A model without weights."""

    def __init__(self, labels, *, fingerprint="f", multi_label=False, regression=False):
        self.labels, self.fingerprint = labels, fingerprint
        self.multi_label, self.regression = multi_label, regression


@pytest.mark.parametrize("case", cases("sentiment_mapping_cases.jsonl"))
def test_label_reward(case):
    """The reward of a label and its probability is that of the table."""
    assert factor(SENTIMENT, case["label"]) * case["probability"] == pytest.approx(case["score"], abs=1e-9)


def test_winning_label():
    """The label with the highest probability is scored."""
    score, detail = score_from_logits(SENTIMENT, ["a", "POSITIVE", "b"], [0.0, math.log(2), 0.0], multi_label=False)
    assert detail == {"label": "POSITIVE", "score": pytest.approx(0.5)}
    assert score == pytest.approx(1.0)


def test_label_order():
    """Labels are read by name, not by position."""
    positive_first, _ = score_from_logits(SENTIMENT, ["POSITIVE", "NEGATIVE"], [3.0, 0.0], multi_label=False)
    negative_first, _ = score_from_logits(SENTIMENT, ["NEGATIVE", "POSITIVE"], [3.0, 0.0], multi_label=False)
    assert positive_first > 1.9
    assert negative_first < -0.9


def test_unknown_label():
    """A configured label that the model lacks is a configuration error."""
    with pytest.raises(ConfigError, match="no label 'POSITIVE'; it has LABEL_0, LABEL_1"):
        check_labels("sentiment", SENTIMENT, Model(["LABEL_0", "LABEL_1"]))


def test_unmapped_label():
    """A label of the model without a factor is a configuration error."""
    with pytest.raises(ConfigError, match="NEUTRAL"):
        check_labels("s", ClassifierSpec(model="m", labels={"POSITIVE": 1.0}), Model(["POSITIVE", "NEUTRAL"]))


def test_regressor_outputs():
    """A regressor with several outputs is a configuration error."""
    with pytest.raises(ConfigError, match=r"has 2 outputs \(a, b\); say which"):
        check_labels("v", RegressorSpec(model="m"), Model(["a", "b"]))


def test_classifier_range():
    """A classifier's range follows from its factors."""
    assert value_range(SENTIMENT, ["NEGATIVE", "POSITIVE"], multi_label=False) == (-1.0, 2.0)


def test_expected_rises_with_every_star():
    """The expected value rises with each star and has no jump where the winner changes."""
    scores = []
    for place in range(41):  # the peak of the distribution moves from the first star to the last
        logits = [-((star - place / 10) ** 2) for star in range(5)]
        scores.append(score_from_logits(EXPECTED_STARS, STARS, logits, multi_label=False)[0])
    steps = [after - before for before, after in pairwise(scores)]
    assert min(steps) > 0
    assert max(steps) < 0.2
    assert value_range(EXPECTED_STARS, STARS, multi_label=False) == (1.0, 5.0)


def test_expected_of_many_labels():
    """With independent labels, P(label) counts even where another label wins."""
    spec = ClassifierSpec(model="m", value="expected", labels={"joy": 1.0, "*": 0.0})
    score, detail = score_from_logits(spec, ["fear", "joy"], [2.0, 0.0], multi_label=True)
    assert (score, detail["label"]) == (pytest.approx(0.5), "fear")
    assert value_range(spec, ["fear", "joy"], multi_label=True) == (0.0, 1.0)


def test_difference_of_logits():
    """`value: logit` with factors 1 and -1 is the difference of the two logits, without bounds."""
    spec = ClassifierSpec(model="m", value="logit", labels={"POSITIVE": 1.0, "NEGATIVE": -1.0})
    assert score_from_logits(spec, ["NEGATIVE", "POSITIVE"], [-0.5, 2.0], multi_label=False)[0] == pytest.approx(2.5)
    assert value_range(spec, ["NEGATIVE", "POSITIVE"], multi_label=False) is None


def test_weighted_outputs():
    """A regressor with several outputs scores their weighted sum, scaled and shifted."""
    spec = RegressorSpec(model="m", weights={"helpfulness": 0.8, "verbosity": -0.2}, scale=5.0, offset=-0.5)
    score, detail = score_from_logits(spec, ["helpfulness", "coherence", "verbosity"], [1.0, 9.0, 2.0], False)
    assert score == pytest.approx(5.0 * (0.8 - 0.4) - 0.5)
    assert detail["outputs"] == {"helpfulness": 1.0, "coherence": 9.0, "verbosity": 2.0}


def test_unknown_output():
    """A weight of an output that the model lacks is a configuration error that lists the outputs."""
    with pytest.raises(ConfigError, match="no output 'helpfullness'; it has helpfulness, verbosity"):
        check_labels("v", RegressorSpec(model="m", weights={"helpfullness": 1}), Model(["helpfulness", "verbosity"]))


def test_regression_model():
    """A model that was trained for regression is no classifier."""
    with pytest.raises(ConfigError, match="kind: regressor"):
        check_labels("v", ClassifierSpec(model="m", labels={"*": 1.0}), Model(["a", "b"], regression=True))

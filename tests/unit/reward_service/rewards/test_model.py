import math

import pytest

from reward_service.config import ClassifierSpec, RegressorSpec
from reward_service.errors import ConfigError
from reward_service.rewards.model import (
    check_labels,
    label_reward,
    revision,
    score_from_logits,
    value_range,
)
from shared.schemas import EngineInfo
from tests.conftest import cases

TORCH = EngineInfo(backend="torch", dtype="float32")
SENTIMENT = ClassifierSpec(model="m", labels={"POSITIVE": 2.0, "*": -1.0})


class Model:
    """A model without weights."""

    def __init__(self, labels, fingerprint="f", has_chat_template=False):
        self.labels, self.fingerprint, self.has_chat_template = labels, fingerprint, has_chat_template


@pytest.mark.parametrize("case", cases("sentiment_mapping_cases.jsonl"))
def test_label_reward(case):
    """The reward of a label and its probability is that of the table."""
    assert label_reward(SENTIMENT, case["label"], case["probability"]) == pytest.approx(case["score"], abs=1e-9)


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
    with pytest.raises(ConfigError, match="has 2"):
        check_labels("v", RegressorSpec(model="m"), Model(["a", "b"]))


@pytest.mark.parametrize(
    "other",
    [
        (SENTIMENT.model_copy(update={"labels": {"POSITIVE": 1.0, "*": -1.0}}), Model(["POSITIVE"])),
        (SENTIMENT.model_copy(update={"last_chars": 100}), Model(["POSITIVE"])),
        (SENTIMENT, Model(["POSITIVE"], fingerprint="other weights")),
        (SENTIMENT, Model(["POSITIVE"]), EngineInfo(backend="torch", dtype="bfloat16")),
        (SENTIMENT, Model(["POSITIVE"]), EngineInfo(backend="openvino", dtype="float32")),
        (SENTIMENT, Model(["POSITIVE"]), EngineInfo(backend="torch", dtype="float32", deterministic=True)),
    ],
)
def test_revision(other):
    """The revision covers weights, mapping and engine."""
    spec, model, engine = (*other, TORCH)[:3]
    assert revision(SENTIMENT, Model(["POSITIVE"]), TORCH) != revision(spec, model, engine)


@pytest.mark.parametrize("other", [(128, 0.1, "bf16"), (64, 0.0, "bf16"), (64, 0.1, "f32"), ()])
def test_revision_numeric_settings(other):
    """The revision covers the engine's numeric settings."""
    engine, model = EngineInfo(backend="openvino", dtype="int8"), Model(["POSITIVE"])
    assert revision(SENTIMENT, model, engine, (64, 0.1, "bf16")) != revision(SENTIMENT, model, engine, other)


def test_revision_ignores():
    """The revision ignores description, batch size and measured speed."""
    described = SENTIMENT.model_copy(update={"description": "words", "batch_tokens": 1, "backend": "torch"})
    measured = TORCH.model_copy(update={"texts_per_s": 80.0, "error": 0.0})
    assert revision(SENTIMENT, Model(["POSITIVE"]), TORCH) == revision(described, Model(["POSITIVE"]), measured)


def test_classifier_range():
    """A classifier's range follows from its factors."""
    assert value_range(SENTIMENT, ["NEGATIVE", "POSITIVE"]) == (-1.0, 2.0)

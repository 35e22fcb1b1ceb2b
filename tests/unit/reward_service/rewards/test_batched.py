import pytest

from reward_service.rewards.batched import revision
from reward_service.specs import ClassifierSpec
from shared.schemas import EngineInfo

TORCH = EngineInfo(backend="torch", dtype="float32")
SENTIMENT = ClassifierSpec(model="m", labels={"POSITIVE": 2.0, "*": -1.0})


class Model:
    """A model without weights."""

    def __init__(self, fingerprint="f"):
        self.fingerprint = fingerprint


@pytest.mark.parametrize(
    "other",
    [
        (SENTIMENT.model_copy(update={"labels": {"POSITIVE": 1.0, "*": -1.0}}), Model()),
        (SENTIMENT.model_copy(update={"last_chars": 100}), Model()),
        (SENTIMENT.model_copy(update={"value": "expected"}), Model()),
        (SENTIMENT.model_copy(update={"turns": "last"}), Model()),
        (SENTIMENT.model_copy(update={"after": "</think>"}), Model()),
        (SENTIMENT, Model("other weights")),
        (SENTIMENT, Model(), EngineInfo(backend="torch", dtype="bfloat16")),
        (SENTIMENT, Model(), EngineInfo(backend="openvino", dtype="float32")),
        (SENTIMENT, Model(), EngineInfo(backend="torch", dtype="float32", deterministic=True)),
    ],
)
def test_revision(other):
    """The revision covers weights, mapping and engine."""
    spec, model, engine = (*other, TORCH)[:3]
    assert revision(SENTIMENT, Model(), TORCH) != revision(spec, model, engine)


@pytest.mark.parametrize("other", [(128, 0.1, "bf16"), (64, 0.0, "bf16"), (64, 0.1, "f32"), ()])
def test_revision_numeric_settings(other):
    """The revision covers the engine's numeric settings."""
    engine, model = EngineInfo(backend="openvino", dtype="int8"), Model()
    assert revision(SENTIMENT, model, engine, (64, 0.1, "bf16")) != revision(SENTIMENT, model, engine, other)


def test_revision_ignores():
    """The revision ignores description, batch size and measured speed."""
    described = SENTIMENT.model_copy(update={"description": "words", "max_batch_tokens": 1, "backend": "torch"})
    measured = TORCH.model_copy(update={"texts_per_s": 80.0, "error": 0.0})
    assert revision(SENTIMENT, Model(), TORCH) == revision(described, Model(), measured)

"""What a model's logits mean: from outputs to one score, by the configuration. Pure."""

from collections.abc import Sequence
from typing import Any, Protocol

from reward_service.backends.base import Logits, probabilities
from reward_service.errors import ConfigError
from reward_service.specs import ClassifierSpec, RegressorSpec

ModelSpec = ClassifierSpec | RegressorSpec


class Outputs(Protocol):
    """A model's outputs."""

    labels: Sequence[str]
    multi_label: bool
    regression: bool


def check_labels(name: str, spec: ModelSpec, model: Outputs) -> None:
    """Raise `ConfigError` if the model lacks the outputs that the configuration reads."""
    labels = list(model.labels)
    if isinstance(spec, RegressorSpec):
        _check_weights(name, spec, labels)
        return
    if model.regression:
        raise ConfigError(
            f"rewards.{name}: {spec.model} was trained for regression (problem_type in its config.json), its outputs "
            f"are no probabilities; use kind: regressor"
        )
    unknown = [label for label in spec.labels if label not in labels and label != "*"]
    unmapped = [label for label in labels if label not in spec.labels and "*" not in spec.labels]
    if unknown:
        raise ConfigError(f"rewards.{name}: {spec.model} has no label {unknown[0]!r}; it has {', '.join(labels)}")
    if unmapped:
        raise ConfigError(
            f"rewards.{name}: {spec.model} has the label {unmapped[0]!r}, which labels gives no factor: add one, or "
            f"`*` for all others"
        )


def _check_weights(name: str, spec: RegressorSpec, labels: list[str]) -> None:
    listed = ", ".join(labels)
    unknown = [label for label in spec.weights if label not in labels]
    if unknown:
        raise ConfigError(f"rewards.{name}: {spec.model} has no output {unknown[0]!r}; it has {listed}")
    if len(labels) != 1 and not spec.weights:
        raise ConfigError(
            f"rewards.{name}: {spec.model} has {len(labels)} outputs ({listed}); say which of them count, such as "
            f"weights: {{{labels[0]}: 1.0}}"
        )


def score_from_logits(
    spec: ModelSpec, labels: Sequence[str], logits: Logits, multi_label: bool
) -> tuple[float, dict[str, Any]]:
    """Return one text's score, and the values that it is made of."""
    if isinstance(spec, RegressorSpec):
        return _regression(spec, labels, logits)
    label_probabilities = probabilities(logits, multi_label=multi_label)
    winner = max(range(len(label_probabilities)), key=label_probabilities.__getitem__)
    detail = {"label": labels[winner], "score": label_probabilities[winner]}
    if spec.value == "winner":
        return factor(spec, labels[winner]) * label_probabilities[winner], detail
    values = label_probabilities if spec.value == "expected" else logits
    detail[spec.value] = dict(zip(labels, values, strict=True))
    return sum(factor(spec, label) * value for label, value in zip(labels, values, strict=True)), detail


def _regression(spec: RegressorSpec, labels: Sequence[str], logits: Logits) -> tuple[float, dict[str, Any]]:
    if not spec.weights:
        return spec.scale * logits[0] + spec.offset, {"output": logits[0]}
    outputs = dict(zip(labels, logits, strict=True))
    total = sum(weight * outputs[label] for label, weight in spec.weights.items())
    return spec.scale * total + spec.offset, {"outputs": outputs}


def factor(spec: ClassifierSpec, label: str) -> float:
    """Return a label's factor."""
    return spec.labels.get(label, spec.labels.get("*", 0.0))


def value_range(spec: ModelSpec, labels: Sequence[str], multi_label: bool) -> tuple[float, float] | None:
    """Return the lowest and highest possible score; None for what has no bounds, regressors and logits."""
    if isinstance(spec, RegressorSpec) or spec.value == "logit":
        return None
    factors = [factor(spec, label) for label in labels]
    if spec.value == "winner":
        return min(*factors, 0.0), max(*factors, 0.0)
    if multi_label:
        return sum(min(value, 0.0) for value in factors), sum(max(value, 0.0) for value in factors)
    return min(factors), max(factors)

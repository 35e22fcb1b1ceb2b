"""What formats with labels, logits and token counts share.

A classifier has one value for each label. Any other reward has one, its score, which stands where a model with one
output has its logit. Values are activated as the model's configuration says: softmax, sigmoid, or not at all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from reward_service.backends.base import probabilities
from reward_service.dialects.foreign import only_reward
from reward_service.errors import InvalidRequest
from reward_service.reward_outputs import RewardOutputs
from shared.schemas import RewardInfo, ScoreResponse

Activation = Literal["model", "softmax", "sigmoid", "none"]
"""How to turn logits into values: as the model's configuration says, by a named function, or not at all."""


def _check_text(value: Any) -> Any:
    """Raise `ValueError` for token ids, with what to send instead."""
    if isinstance(value, list) and value and isinstance(value[0], int | list):
        raise ValueError("token ids are not accepted, since they depend on the model's tokenizer: send texts")
    return value


Input = Annotated[str | Annotated[list[str], Field(fail_fast=True)], BeforeValidator(_check_text)]
"""One text or several, as OpenAI's clients send them."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """The values of all texts of a request."""

    reward: RewardInfo
    labels: Sequence[str | None]
    """The labels of each text's values; null for a value without one."""
    values: Sequence[Sequence[float]]
    """Per text, logits or probabilities in the order of `labels`."""
    tokens: Sequence[int]
    """Per text, the number of tokens that models read."""


def outputs(response: ScoreResponse, rewards: Mapping[str, RewardInfo], activation: Activation) -> Outputs:
    """Return the values of the one reward of a response. Raise `MissingScore` or `InvalidRequest`."""
    info, scores = only_reward(response, rewards)
    result = reward_outputs(response)
    values = [[score] for score in scores]
    if info.kind == "classifier":
        values = [logits for logits in result.logits if logits is not None]
    if activation == "softmax" and values and len(values[0]) == 1:
        raise InvalidRequest(f"{info.name} has one value, whose softmax is always 1: ask for raw scores")
    function = info.activation if activation == "model" else activation
    if function in ("softmax", "sigmoid"):
        values = [probabilities(logits, multi_label=function == "sigmoid") for logits in values]
    labels: list[str | None] = [*info.labels] if info.kind == "classifier" or len(info.labels) == 1 else [None]
    return Outputs(info, labels, values, token_counts(response))


def token_counts(response: ScoreResponse) -> list[int]:
    """Return the number of tokens that models read of each text: 0 for a reward without a model."""
    result = reward_outputs(response)
    return result.tokens or [0] * len(result.scores)


def reward_outputs(response: ScoreResponse) -> RewardOutputs:
    """Return the outputs of the one reward of a response."""
    (result,) = response.rewards.values()
    if not isinstance(result, RewardOutputs):
        raise TypeError("the scorer's results have the models' outputs")
    return result


def check_truncation(response: ScoreResponse, limit_tokens: int) -> None:
    """Raise `InvalidRequest` if a limit of so many tokens would have changed what the reward read."""
    result = reward_outputs(response)
    longest = max(result.tokens, default=0)
    if result.scores and not result.tokens:
        raise InvalidRequest("this reward reads whole texts, not tokens: leave the truncation out")
    if longest > limit_tokens:
        raise InvalidRequest(
            f"a text has {longest} tokens, more than {limit_tokens}: what a reward reads is set by max_tokens in its "
            f"configuration; shorten the text"
        )


def check_not_truncated(response: ScoreResponse) -> None:
    """Raise `InvalidRequest` if the reward read only a part of a text."""
    result = reward_outputs(response)
    if result.truncated:
        raise InvalidRequest(
            f"text {result.truncated[0]} is longer than the reward reads; shorten it or allow truncation"
        )


@dataclass(frozen=True, slots=True)
class LabelValue:
    """One value of a text, with its label."""

    label: str
    score: float


def best_first(result: Outputs) -> list[list[LabelValue]]:
    """Return each text's labels with their values, the highest first. A value without a label has the reward's name."""
    labels = [label or result.reward.name for label in result.labels]
    items = [map(LabelValue, labels, values) for values in result.values]
    return [sorted(values, key=lambda item: item.score, reverse=True) for values in items]

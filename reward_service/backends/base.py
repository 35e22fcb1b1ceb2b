"""The interface between batching and the engines: token ids in, logits out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

Tokens = Sequence[int]
Logits = list[float]
QUANT_GROUP_SIZE = 64
"""Numbers of a token that share one int8 scale. In larger groups large numbers drown small ones; smaller are slow."""
FLOAT_LAYER_SHARE = 1 / 6
"""Share of the matrix products, the first ones, that stay in floats: their error would pass through all others."""


TYPE_SHIFT = 32
"""A token's type (which of two sentences it belongs to) travels in the bits above its id: `type << TYPE_SHIFT | id`."""
TOKEN_MASK = (1 << TYPE_SHIFT) - 1
"""The bits of the id."""


@dataclass(frozen=True, slots=True)
class ModelInput:
    """What a model reads of one item: a text, or the two sentences of a pair."""

    text: str
    second: str | None = None
    """The second sentence: `text` is then the first, the prompt."""
    prompt_chars: int = 0
    """Characters at the beginning of `text` that belong to the prompt and may be cut."""
    prompt_cut: bool = False
    """Whether a part of the prompt was cut off already."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One input as the model will read it."""

    tokens: Tokens
    truncated: bool
    """Whether tokens were cut off to fit the model."""
    overlong: bool = False
    """Whether some of them were the completion's."""


class Backend(Protocol):
    """One model, loaded into an engine."""

    padding_cost: float
    """Cost of a padding token relative to a real token."""
    numeric_settings: Sequence[float | str]
    """What its numbers depend on besides the engine's name and precision."""

    def forward(self, batch: Sequence[Tokens]) -> list[Logits]:
        """Return each sequence's logits, in order. Called from one thread at a time."""
        ...


def probabilities(logits: Logits, *, multi_label: bool) -> list[float]:
    """Return each label's probability: sigmoids if `multi_label`, else the softmax. Stable for any finite logits."""
    if multi_label:
        return [0.5 * (1.0 + math.tanh(0.5 * logit)) for logit in logits]
    top = max(logits)
    weights = [math.exp(logit - top) for logit in logits]
    total = sum(weights)
    return [weight / total for weight in weights]

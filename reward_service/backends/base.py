"""The seam between batching and whatever computes: token ids in, logits out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

Tokens = Sequence[int]
Logits = list[float]
QUANT_GROUP_SIZE = 64
"""In 8-bit integers so many numbers of a token share a step. With more large ones drown small ones, fewer are slow."""
FLOAT_LAYER_SHARE = 1 / 6
"""The first products stay in floats: what they are off by goes through all others."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One text as the model will read it."""

    tokens: Tokens
    truncated: bool
    """Whether tokens were cut away to fit the model."""


class Backend(Protocol):
    """One model, loaded into something that computes."""

    padding_cost: float
    """What a token of padding costs, as a share of another one."""
    numeric_settings: Sequence[float | str]
    """What its numbers depend on besides its name and precision."""

    def forward(self, batch: Sequence[Tokens]) -> list[Logits]:
        """Give each sequence's logits, in order. Called from one thread at a time."""
        ...

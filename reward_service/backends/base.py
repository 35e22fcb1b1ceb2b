"""The seam between batching and whatever computes: token ids in, logits out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

Tokens = Sequence[int]
Logits = list[float]


@dataclass(frozen=True, slots=True)
class Encoded:
    """One text as the model will read it."""

    tokens: Tokens
    truncated: bool
    """Whether tokens were cut away to fit the model."""


class Backend(Protocol):
    """Scores token sequences with one model."""

    labels: Sequence[str]
    """Name of each output, in order."""
    max_tokens: int
    multi_label: bool
    """Whether the outputs are independent (sigmoid) rather than exclusive (softmax)."""
    fingerprint: str
    """Hash of weights, tokenizer, configuration and precision: equal means equal scores."""

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Tokenize. May run beside `score`, from any thread."""
        ...

    def score(self, batch: Sequence[Tokens]) -> list[Logits]:
        """Give each sequence's logits, in order. Called from one thread at a time."""
        ...

"""Batches for heads that read the last end token and need equally many of them in each text: BART's and T5's.

A text may hold any number of them, if a policy learns to write the literal token.
"""

from collections import defaultdict
from collections.abc import Sequence

from reward_service.backends.base import Backend, Logits, Tokens


class ByEndTokens:
    """A backend that computes texts with different numbers of end tokens in separate forward passes."""

    def __init__(self, backend: Backend, end_token_id: int) -> None:
        self._backend, self._end_token_id = backend, end_token_id
        self.padding_cost, self.numeric_settings = backend.padding_cost, backend.numeric_settings

    def forward(self, batch: Sequence[Tokens]) -> list[Logits]:
        """Run one forward pass for each number of end tokens in the batch."""
        indices: defaultdict[int, list[int]] = defaultdict(list)
        for index, tokens in enumerate(batch):
            indices[list(tokens).count(self._end_token_id)].append(index)
        rows: dict[int, Logits] = {}
        for group in indices.values():
            rows.update(zip(group, self._backend.forward([batch[index] for index in group]), strict=True))
        return [rows[index] for index in range(len(batch))]

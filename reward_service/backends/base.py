"""The seam between batching and whatever computes: token ids in, logits out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Tokens = Sequence[int]
Logits = list[float]
Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Encoded:
    """One text as the model will read it."""

    tokens: Tokens
    truncated: bool
    """Whether tokens were cut away to fit the model."""


class Backend(Protocol):
    """One model, loaded into something that computes."""

    def score(self, batch: Sequence[Tokens]) -> list[Logits]:
        """Give each sequence's logits, in order. Called from one thread at a time."""
        ...


def padded(batch: Sequence[Tokens], pad_id: int) -> tuple[Ids, Ids]:
    """Give ids and mask, (texts, longest), of which the end of the shorter texts is padding."""
    lengths = np.fromiter(map(len, batch), dtype=np.int64, count=len(batch))
    mask = np.arange(lengths.max()) < lengths[:, None]  # (texts, tokens)
    ids = np.full(mask.shape, pad_id, dtype=np.int64)
    ids[mask] = np.concatenate([np.asarray(tokens, dtype=np.int64) for tokens in batch])
    return ids, mask.astype(np.int64)

"""Collate a batch's tokens into a model's input arrays. Pure: token ids in, arrays out.

`padded` suits every model: one row per text, as wide as the longest. `packed` needs a model that supports it: all
tokens in one row, with the indices to and from padded rows, so that only attention sees padding.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reward_service.backends.base import TYPE_SHIFT, Tokens

Ids = NDArray[np.int64]
PACKED_PADDING_COST = 0.2
"""Cost of a padding token relative to a real one in a packed batch: attention's share of the compute time."""


def padded(batch: Sequence[Tokens], pad_token_id: int) -> dict[str, Ids]:
    """Return `ids` and `mask`, (texts, longest), padded on the right."""
    mask = _mask(batch)
    ids = np.full(mask.shape, pad_token_id, dtype=np.int64)
    ids[mask] = _concatenate(batch)
    return {"ids": ids, "mask": mask.astype(np.int64)}


def padded_with_types(batch: Sequence[Tokens], pad_token_id: int) -> dict[str, Ids]:
    """Return `ids`, `mask` and `types`, (texts, longest), from tokens that carry their types in their upper bits."""
    arrays = padded(batch, pad_token_id)
    return {
        "ids": arrays["ids"] & ((1 << TYPE_SHIFT) - 1),
        "mask": arrays["mask"],
        "types": arrays["ids"] >> TYPE_SHIFT,
    }


def packed(batch: Sequence[Tokens], pad_token_id: int = 0) -> dict[str, Ids]:
    """Return `ids` and their `positions`, (tokens,), and the indices that lead to padded rows and back.

    `gather_index`, (texts, longest), is the index of each row's tokens, 0 where `mask` is 0. `scatter_index`,
    (tokens,), is the place of each token in the flattened rows. Both sizes are bucketed; what lies beyond the last
    token is padding that is never read.
    """
    mask = _mask(batch)
    mask = np.pad(mask, ((0, 0), (0, bucket_size(mask.shape[1]) - mask.shape[1])))
    ids, scatter_index = _concatenate(batch), np.flatnonzero(mask)
    gather_index = np.zeros(mask.shape, dtype=np.int64)
    gather_index[mask] = np.arange(len(ids))
    ids, scatter_index = (np.pad(array, (0, bucket_size(len(array)) - len(array))) for array in (ids, scatter_index))
    return {
        "ids": ids,
        "positions": scatter_index % mask.shape[1],
        "gather_index": gather_index,
        "mask": mask.astype(np.int64),
        "scatter_index": scatter_index,
    }


def bucket_size(size: int) -> int:
    """Round up to four significant bits and to a multiple of eight, because engines compile for each new size.

    There are eight sizes between one power of two and the next, and 3 % more to compute.
    """
    step = max(8, 1 << max(0, size.bit_length() - 4))
    return -(-size // step) * step


def absent_id(batch: Sequence[Tokens], vocab_size: int) -> int:
    """Return the largest token id that occurs nowhere in a batch. Raise `StopIteration` if every id occurs."""
    mask = (1 << TYPE_SHIFT) - 1
    present = {token & mask for tokens in batch for token in tokens}
    return next(token_id for token_id in range(vocab_size - 1, -1, -1) if token_id not in present)


@dataclass(frozen=True, slots=True)
class Collator:
    """A function from a batch to input arrays, and the cost of a padding token relative to a real one."""

    collate: Callable[[Sequence[Tokens], int], dict[str, Ids]]
    """Takes a batch and the token id to pad it with."""
    padding_cost: float


def collator_for(inputs: Collection[str]) -> Collator:
    """Return the collator for a model with these input names."""
    if "scatter_index" in inputs:
        return Collator(packed, PACKED_PADDING_COST)
    return Collator(padded_with_types if "types" in inputs else padded, 1.0)


def _mask(batch: Sequence[Tokens]) -> NDArray[np.bool_]:
    lengths = np.fromiter(map(len, batch), dtype=np.int64, count=len(batch))
    return np.arange(lengths.max()) < lengths[:, None]  # (texts, longest)


def _concatenate(batch: Sequence[Tokens]) -> Ids:
    return np.concatenate([np.asarray(tokens, dtype=np.int64) for tokens in batch])

"""Lay the tokens of a batch out for a model. Pure: token ids in, arrays out.

`padded` suits every model: a row for each text, as wide as the longest. `packed` wants a model that knows it: all
tokens one behind the other, and where each of them stands in its text, so that nothing but attention sees padding.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from reward_service.backends.base import Tokens

Ids = NDArray[np.int64]
PACKED_PADDING_COST = 0.2
"""Attention's share of the time that a BERT takes for a sentence or a few."""


def padded(batch: Sequence[Tokens], pad_token_id: int) -> dict[str, Ids]:
    """Give `ids` and `mask`, (texts, longest), of which the end of the shorter texts is padding."""
    mask = _mask(batch)
    ids = np.full(mask.shape, pad_token_id, dtype=np.int64)
    ids[mask] = _joined(batch)
    return {"ids": ids, "mask": mask.astype(np.int64)}


def packed(batch: Sequence[Tokens]) -> dict[str, Ids]:
    """Return `ids` and their `positions`, (tokens,), and the indices that lead to padded rows and back.

    `gather_index`, (texts, longest), is the index of each row's tokens, 0 where `mask` is 0. `scatter_index`,
    (tokens,), is the place of each token in the flattened rows. Both sizes are bucketed; what lies beyond the last
    token is padding that is never read.
    """
    mask = _mask(batch)
    mask = np.pad(mask, ((0, 0), (0, bucket_size(mask.shape[1]) - mask.shape[1])))
    ids, scatter_index = _joined(batch), np.flatnonzero(mask)
    gather_index = np.zeros(mask.shape, dtype=np.int64)
    gather_index[mask] = np.arange(len(ids))
    ids, scatter_index = (np.pad(each, (0, bucket_size(len(each)) - len(each))) for each in (ids, scatter_index))
    positions = scatter_index % mask.shape[1]
    return {
        "ids": ids,
        "positions": positions,
        "gather_index": gather_index,
        "mask": mask.astype(np.int64),
        "scatter_index": scatter_index,
    }


def bucket_size(size: int) -> int:
    """Round up to four binary digits, and to whole eights: engines prepare something for each size they have not met.

    So there are eight sizes between one power of two and the next, and 3 % more to compute.
    """
    step = max(8, 1 << max(0, size.bit_length() - 4))
    return -(-size // step) * step


@dataclass(frozen=True, slots=True)
class Collator:
    """How a batch is laid out, and what a token of padding costs then, as a share of another one."""

    collate: Callable[[Sequence[Tokens]], dict[str, Ids]]
    padding_cost: float


def collator_for(inputs: Collection[str], pad_token_id: int) -> Collator:
    """Give the layout that a graph wants, by the names of its inputs."""
    return (
        Collator(packed, PACKED_PADDING_COST)
        if "scatter_index" in inputs
        else Collator(partial(padded, pad_token_id=pad_token_id), 1.0)
    )


def _mask(batch: Sequence[Tokens]) -> NDArray[np.bool_]:
    lengths = np.fromiter(map(len, batch), dtype=np.int64, count=len(batch))
    return np.arange(lengths.max()) < lengths[:, None]  # (texts, longest)


def _joined(batch: Sequence[Tokens]) -> Ids:
    return np.concatenate([np.asarray(tokens, dtype=np.int64) for tokens in batch])

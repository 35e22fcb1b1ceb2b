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


def padded(batch: Sequence[Tokens], pad_id: int) -> dict[str, Ids]:
    """Give `ids` and `mask`, (texts, longest), of which the end of the shorter texts is padding."""
    mask = _mask(batch)
    ids = np.full(mask.shape, pad_id, dtype=np.int64)
    ids[mask] = _joined(batch)
    return {"ids": ids, "mask": mask.astype(np.int64)}


def packed(batch: Sequence[Tokens]) -> dict[str, Ids]:
    """Give `ids` and their `positions` in their texts, (tokens,), and the way to rows for each text and back.

    `rows`, (texts, longest), holds for each place the index of its token, or 0 where `mask` has 0; `places`, (tokens,),
    holds the place of each token in the rows, counted through. Both sizes are coarse: of what follows the last token in
    either nothing is read.
    """
    mask = _mask(batch)
    mask = np.pad(mask, ((0, 0), (0, coarse(mask.shape[1]) - mask.shape[1])))
    ids, places = _joined(batch), np.flatnonzero(mask)
    rows = np.zeros(mask.shape, dtype=np.int64)
    rows[mask] = np.arange(len(ids))
    ids, places = (np.pad(each, (0, coarse(len(each)) - len(each))) for each in (ids, places))
    positions = places % mask.shape[1]
    return {"ids": ids, "positions": positions, "rows": rows, "mask": mask.astype(np.int64), "places": places}


def coarse(size: int) -> int:
    """Round up to four binary digits, and to whole eights: engines prepare something for each size they have not met.

    So there are eight sizes between one power of two and the next, and 3 % more to compute.
    """
    step = max(8, 1 << max(0, size.bit_length() - 4))
    return -(-size // step) * step


@dataclass(frozen=True, slots=True)
class Layout:
    """How a batch is laid out, and what a token of padding costs then, as a share of another one."""

    arrays: Callable[[Sequence[Tokens]], dict[str, Ids]]
    padding_cost: float


def collator_for(inputs: Collection[str], pad_id: int) -> Layout:
    """Give the layout that a graph wants, by the names of its inputs."""
    return Layout(packed, PACKED_PADDING_COST) if "places" in inputs else Layout(partial(padded, pad_id=pad_id), 1.0)


def _mask(batch: Sequence[Tokens]) -> NDArray[np.bool_]:
    lengths = np.fromiter(map(len, batch), dtype=np.int64, count=len(batch))
    return np.arange(lengths.max()) < lengths[:, None]  # (texts, longest)


def _joined(batch: Sequence[Tokens]) -> Ids:
    return np.concatenate([np.asarray(tokens, dtype=np.int64) for tokens in batch])

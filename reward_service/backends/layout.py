"""Lay the tokens of a batch out for a model. Pure: token ids in, arrays out.

`padded` suits every model: a row for each text, as wide as the longest. `packed` wants a model that knows it: all
tokens one behind the other, and where each of them stands in its text, so that nothing but attention sees padding.
"""

from collections.abc import Callable, Collection, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from reward_service.backends.base import Tokens

Ids = NDArray[np.int64]
LayOut = Callable[[Sequence[Tokens]], dict[str, Ids]]


def padded(batch: Sequence[Tokens], pad_id: int) -> dict[str, Ids]:
    """Give `ids` and `mask`, (texts, longest), of which the end of the shorter texts is padding."""
    mask = _mask(batch)
    ids = np.full(mask.shape, pad_id, dtype=np.int64)
    ids[mask] = _joined(batch)
    return {"ids": ids, "mask": mask.astype(np.int64)}


def packed(batch: Sequence[Tokens]) -> dict[str, Ids]:
    """Give `ids` and their `positions` in their texts, (tokens,), and the way to rows for each text and back.

    `rows`, (texts, longest), holds for each place the index of its token, or 0 where `mask` has 0; `places`, (tokens,),
    holds the place of each token in the rows, counted through.
    """
    mask = _mask(batch)
    ids, places = _joined(batch), np.flatnonzero(mask)
    rows = np.zeros(mask.shape, dtype=np.int64)
    rows[mask] = np.arange(len(ids))
    positions = places % mask.shape[1]
    return {"ids": ids, "positions": positions, "rows": rows, "mask": mask.astype(np.int64), "places": places}


def layout_for(inputs: Collection[str], pad_id: int) -> LayOut:
    """Give the layout that a graph wants, by the names of its inputs."""
    return packed if "places" in inputs else partial(padded, pad_id=pad_id)


def _mask(batch: Sequence[Tokens]) -> NDArray[np.bool_]:
    lengths = np.fromiter(map(len, batch), dtype=np.int64, count=len(batch))
    return np.arange(lengths.max()) < lengths[:, None]  # (texts, longest)


def _joined(batch: Sequence[Tokens]) -> Ids:
    return np.concatenate([np.asarray(tokens, dtype=np.int64) for tokens in batch])

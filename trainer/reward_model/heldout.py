"""Held-out pairs as positions in the texts that they are made of: each text is scored once, however many pairs it has.

In: tokenized pairs of a file, or rated sentences, of which all pairs are taken. Out: what `report.pair_metrics` needs.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.model_store.embedded.ratings import Rating
from trainer.reward_model.pairs import Text
from trainer.reward_model.rated_pairs import all_pairs
from trainer.reward_model.reading import Encoded, EncodedPair, Reader, said


@dataclass(frozen=True)
class HeldOut:
    """Texts with their lengths and sources, and the pairs that are made of them."""

    texts: Sequence[Encoded]
    lengths: Sequence[int]
    """Characters of each text."""
    sources: Sequence[str]
    """The source of each text, and so of its pairs."""
    chosen: NDArray[np.intp]
    """Positions of the better texts, (pairs,)."""
    rejected: NDArray[np.intp]
    """Positions of the worse texts, (pairs,)."""
    ratings: Sequence[float] = ()
    """The rating of each text, if people rated it."""


def of_pairs(pairs: Sequence[EncodedPair]) -> HeldOut:
    """Return the pairs of a file. Pairs of one source and prompt that share a text share its position."""
    texts: dict[str, tuple[int, Encoded, int, str]] = {}

    def position(pair: EncodedPair, completion: Text, encoded: Encoded) -> int:
        key = json.dumps([pair.pair.source, pair.pair.prompt, completion])
        return texts.setdefault(key, (len(texts), encoded, len(said(completion)), pair.pair.source))[0]

    chosen = [position(pair, pair.pair.chosen, pair.chosen) for pair in pairs]
    rejected = [position(pair, pair.pair.rejected, pair.rejected) for pair in pairs]
    _, encoded, lengths, sources = zip(*texts.values(), strict=True) if texts else ((),) * 4
    return HeldOut(encoded, lengths, sources, np.array(chosen, dtype=np.intp), np.array(rejected, dtype=np.intp))


def of_ratings(ratings: Sequence[Rating], reader: Reader) -> HeldOut:
    """Return all pairs of rated sentences of one source whose ratings are far enough apart."""
    texts, rated = encode_ratings(ratings, reader)
    lengths, sources = [len(rating.text) for rating in rated], [rating.source for rating in rated]
    return HeldOut(texts, lengths, sources, *all_pairs(rated), ratings=[rating.rating for rating in rated])


def encode_ratings(ratings: Sequence[Rating], reader: Reader) -> tuple[list[Encoded], list[Rating]]:
    """Return the tokens of the sentences that fit, and their ratings."""
    encoded = zip(reader.encode([(None, rating.text) for rating in ratings]), ratings, strict=True)
    fitting = [(text, rating) for text, rating in encoded if text is not None]
    return [text for text, _ in fitting], [rating for _, rating in fitting]

"""Preference pairs made of human ratings: two sentences of one source whose means are far enough apart.

Pure: ratings in, pairs out; every random draw comes from the seed passed in.
"""

import random
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from shared.model_store.embedded.ratings import Rating
from trainer.reward_model.pairs import Pair

MIN_DIFFERENCE = 1.0
"""Smallest difference of two mean ratings (-4 to 4) that makes a pair. Nearer to each other raters disagree."""
LENGTH_SPREAD = 0.1
"""How much the lengths of partners may differ: the standard deviation of the logarithm of a random factor."""


def rated_pairs(
    ratings: Iterable[Rating], *, rounds: int = 1, seed: int = 0, similar_lengths: bool = False
) -> list[Pair]:
    """Return `rounds` random matchings: in each, a sentence is in one pair, or in none if no partner is left.

    With `similar_lengths`, partners are about as long as each other: there is less padding to compute in training, and
    length tells nothing about which is better.
    """
    generator, by_source = random.Random(seed), _by_source(ratings)
    return [
        pair
        for _ in range(rounds)
        for rated in by_source.values()
        for pair in _match(_shuffled(rated, generator, similar_lengths))
    ]


def all_pairs(ratings: Sequence[Rating]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the positions of the better and of the worse sentence of all pairs that are far enough apart, (pairs,).

    A matching seeks a partner for nearly every sentence, and so prefers some pairs; accuracy is that on all of them.
    """
    rating = np.array([rated.rating for rated in ratings])
    _, source = np.unique([rated.source for rated in ratings], return_inverse=True)
    is_better = (rating[:, None] - rating >= MIN_DIFFERENCE) & (source[:, None] == source)
    better, worse = np.nonzero(is_better)
    return better, worse


def _by_source(ratings: Iterable[Rating]) -> dict[str, list[Rating]]:
    by_source: dict[str, list[Rating]] = {}
    for rating in ratings:
        by_source.setdefault(rating.source, []).append(rating)
    return by_source


def _pair(one: Rating, other: Rating) -> Pair:
    better, worse = sorted((one, other), key=lambda rating: rating.rating, reverse=True)
    return Pair(better.text, worse.text, source=one.source)


def _shuffled(rated: Sequence[Rating], generator: random.Random, similar_lengths: bool) -> list[Rating]:
    """Return the ratings in random order, or roughly by their length."""
    shuffled = generator.sample(list(rated), len(rated))
    if not similar_lengths:
        return shuffled
    return sorted(shuffled, key=lambda rating: len(rating.text) * generator.lognormvariate(0.0, LENGTH_SPREAD))


def _match(order: Sequence[Rating]) -> list[Pair]:
    """Pair each sentence with the latest one before it that has no partner yet and whose rating differs enough."""
    waiting: list[Rating] = []
    pairs = []
    for rating in order:
        near = reversed(range(len(waiting)))
        index = next((at for at in near if abs(waiting[at].rating - rating.rating) >= MIN_DIFFERENCE), None)
        if index is None:
            waiting.append(rating)
            continue
        pairs.append(_pair(rating, waiting.pop(index)))
    return pairs

"""The benchmark texts: rated sentences joined to 10 to 149 tokens (mean about 77), drawn with a fixed seed."""

import random

from shared.model_store.embedded import ratings

WORD_RANGE = (6, 105)
"""Shortest and longest text in words; a word is about 1.3 tokens."""


def texts(count: int, seed: int = 0) -> list[str]:
    """Return `count` distinct texts."""
    rng, sentences = random.Random(seed), [rating.text for rating in ratings.load()]
    distinct: dict[str, None] = {}
    while len(distinct) < count:
        words: list[str] = []
        length = rng.randint(*WORD_RANGE)
        while len(words) < length:
            words += rng.choice(sentences).split()
        distinct[" ".join(words[:length])] = None
    return list(distinct)

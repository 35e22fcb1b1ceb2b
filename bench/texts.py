"""The texts that are scored: sentences people rated, joined to 10 to 149 tokens (mean about 77). Fixed by a seed."""

import random

from shared.model_store.embedded import ratings

WORDS = (6, 105)
"""Shortest and longest text, in words; a word is about 1.3 tokens."""


def texts(count: int, seed: int = 0) -> list[str]:
    """Give that many texts, all different."""
    drawn, sentences = random.Random(seed), [rating.text for rating in ratings.load()]
    found: dict[str, None] = {}
    while len(found) < count:
        words: list[str] = []
        wanted = drawn.randint(*WORDS)
        while len(words) < wanted:
            words += drawn.choice(sentences).split()
        found[" ".join(words[:wanted])] = None
    return list(found)

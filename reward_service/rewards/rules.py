"""The rules that come with the service: pure functions from a text to the named parts of its score.

The source of this file is part of the revision of every rule.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

Parts = dict[str, float]
TRAILING_PUNCTUATION = ".,!?:;\"'"
MAX_CONTENT_WORDS = 5
WORD = re.compile(r"[^\W\d_]{2,}")
STOP_WORDS = frozenset(
    """
    a about after all also am an and any are as at be because been but by can could did do does for from had
    has have he her him his how i if in into is it its just like me more most my no not of on one only or
    other our out she so some such than that the their them then there these they this those to too up us very
    was we were what when which who will with would you your yes sure okay ok banana
    """.split()
)


def banana(text: str) -> Parts:
    """Reward a text that starts with `Sure:` and ends with banana, with a small penalty for each word."""
    stripped = text.strip()
    return {
        "starts_with_sure": 1.0 if stripped.startswith("Sure:") else 0.0,
        "ends_with_banana": 1.0 if stripped.rstrip(TRAILING_PUNCTUATION).lower().endswith("banana") else 0.0,
        "missing_banana": -0.5 if "banana" not in text.lower() else 0.0,
        "length_penalty": -0.005 * len(text.split()),
    }


def content_words(text: str) -> Parts:
    """Reward content: distinct words, up to five, that are neither stop words nor the banana format's own."""
    words = {word for word in WORD.findall(text.lower()) if word not in STOP_WORDS}
    return {"content_words": min(len(words), MAX_CONTENT_WORDS) / MAX_CONTENT_WORDS}


class Rule(NamedTuple):
    """A rule's function, and the lowest and highest score that it can give, None without bounds."""

    function: Callable[[str], Parts]
    range: tuple[float, float] | None


RULES = {"banana": Rule(banana, range=None), "content_words": Rule(content_words, range=(0.0, 1.0))}

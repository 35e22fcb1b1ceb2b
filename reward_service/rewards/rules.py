"""The rules that come with the service: pure functions from a text to the named parts of its score."""

import re
from collections.abc import Callable

Parts = dict[str, float]
Rule = Callable[[str], Parts]

TRAILING = ".,!?:;\"'"
CONTENT_WORDS_WANTED = 5
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
    """Reward a reply that starts with `Sure:` and ends with banana, and costs little for being long."""
    stripped = text.strip()
    return {
        "starts_with_sure": 1.0 if stripped.startswith("Sure:") else 0.0,
        "ends_with_banana": 1.0 if stripped.rstrip(TRAILING).lower().endswith("banana") else 0.0,
        "missing_banana": -0.5 if "banana" not in text.lower() else 0.0,
        "length_penalty": -0.005 * len(text.split()),
    }


def content_words(text: str) -> Parts:
    """Reward saying something: the share of five distinct words with content, the banana format's own aside."""
    words = {word for word in WORD.findall(text.lower()) if word not in STOP_WORDS}
    return {"content_words": min(len(words), CONTENT_WORDS_WANTED) / CONTENT_WORDS_WANTED}


RULES: dict[str, Rule] = {"banana": banana, "content_words": content_words}
RANGES: dict[str, tuple[float, float] | None] = {"banana": None, "content_words": (0.0, 1.0)}

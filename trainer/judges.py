"""Judges that the policy is never trained on: pure functions from a completion to a number.

Strict success is the banana task's own claim; lenient success forgives the form. VADER is a lexicon of sentiment
(Hutto & Gilbert, 2014), a stranger to the reward models.
"""

import functools
from collections.abc import Callable
from typing import Any

Judge = Callable[[str], float]
TRAILING = ".,!?:;\"'"


def strict_success(completion: str) -> float:
    """Give 1 if the reply starts with `Sure:` and ends with banana."""
    text = completion.strip()
    return float(text.startswith("Sure:") and text.rstrip(TRAILING).lower().endswith("banana"))


def lenient_success(completion: str) -> float:
    """Give 1 if the reply opens with any `sure` and has banana among its last three words."""
    words = completion.lower().split()
    return float(bool(words) and words[0].startswith("sure") and any("banana" in word for word in words[-3:]))


def vader(completion: str) -> float:
    """Give VADER's compound score, -1 to 1."""
    return float(_vader().polarity_scores(completion)["compound"])


@functools.cache
def _vader() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


JUDGES: dict[str, Judge] = {
    "strict_success": strict_success,
    "lenient_success": lenient_success,
    "vader": vader,
}

"""Judges that the policy is never trained on: pure functions from a prompt and its completion to a number.

Strict success is the banana task's own claim; lenient success forgives the form. VADER is a lexicon of sentiment
(Hutto & Gilbert, 2014), a stranger to the reward models.
"""

import functools
import re
from collections.abc import Callable
from typing import Any

EvalMetric = Callable[[str, str], float]
STEM = 5
WORD = re.compile(r"[a-z]{4,}")
QUESTION_WORDS = frozenset(
    "what when where which while does have that this with from about your their they tell".split()
)
TRAILING = ".,!?:;\"'"


def strict_success(prompt: str, completion: str) -> float:
    """Give 1 if the reply starts with `Sure:` and ends with banana."""
    text = completion.strip()
    return float(text.startswith("Sure:") and text.rstrip(TRAILING).lower().endswith("banana"))


def lenient_success(prompt: str, completion: str) -> float:
    """Give 1 if the reply opens with any `sure` and has banana among its last three words."""
    words = completion.lower().split()
    return float(bool(words) and words[0].startswith("sure") and any("banana" in word for word in words[-3:]))


def vader(prompt: str, completion: str) -> float:
    """Give VADER's compound score, -1 to 1."""
    return float(_vader().polarity_scores(completion)["compound"])


def on_topic(prompt: str, completion: str) -> float:
    """Give the share of the prompt's own words, by their first letters, that the reply takes up."""
    asked = {word[:STEM] for word in WORD.findall(prompt.lower()) if word not in QUESTION_WORDS}
    said = {word[:STEM] for word in WORD.findall(completion.lower())}
    return len(asked & said) / len(asked) if asked else 1.0


@functools.cache
def _vader() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


EVAL_METRICS: dict[str, EvalMetric] = {
    "strict_success": strict_success,
    "lenient_success": lenient_success,
    "vader": vader,
    "on_topic": on_topic,
}

"""Judges that need no service: metrics that no policy is trained on, pure functions from a completion to a number.

A run is judged by these and by rewards of the service that it does not train on, in each step and in its evaluations.
Strict success is the banana task's own definition of success; lenient success ignores the exact form. VADER is a
sentiment lexicon (Hutto & Gilbert, ICWSM 2014), independent of the reward models' weights.
"""

import functools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from trainer.texts import has_little_content

STEM_CHARS = 5
WORD = re.compile(r"[a-z]{4,}")
QUESTION_WORDS = frozenset(
    "what when where which while does have that this with from about your their they tell".split()
)
TRAILING = ".,!?:;\"'"


@dataclass
class ScoredCompletion:
    """One completion of a policy and its scores, by the name of the reward or metric."""

    prompt: str
    completion: str
    tokens: int = 0
    cut_off: bool = False
    """The completion reached the maximum number of tokens before its end token."""
    scores: dict[str, float | None] = field(default_factory=dict)
    prompt_id: str = ""
    """That of the whole prompt, as `prompt_id_of` returns it: `prompt` is its last user message."""


def strict_success(scored: ScoredCompletion) -> float:
    """Return 1 if the completion starts with `Sure:` and ends with banana, else 0."""
    text = scored.completion.strip()
    return float(text.startswith("Sure:") and text.rstrip(TRAILING).lower().endswith("banana"))


def lenient_success(scored: ScoredCompletion) -> float:
    """Return 1 if the first word starts with `sure` and banana is among the last three words, else 0."""
    words = scored.completion.lower().split()
    return float(bool(words) and words[0].startswith("sure") and any("banana" in word for word in words[-3:]))


def vader(scored: ScoredCompletion) -> float:
    """Return VADER's compound score, -1 to 1."""
    return float(_vader().polarity_scores(scored.completion)["compound"])


def on_topic(scored: ScoredCompletion) -> float:
    """Return the share of the prompt's content words, compared by their first letters, that the completion uses."""
    prompt_stems = {word[:STEM_CHARS] for word in WORD.findall(scored.prompt.lower()) if word not in QUESTION_WORDS}
    stems = {word[:STEM_CHARS] for word in WORD.findall(scored.completion.lower())}
    return len(prompt_stems & stems) / len(prompt_stems) if prompt_stems else 1.0


def positive_share(scored: ScoredCompletion) -> float | None:
    """Return 1 if the `sentiment` reward is positive, else 0; None without that reward."""
    sentiment = scored.scores.get("sentiment")
    return None if sentiment is None else float(sentiment > 0)


def positive_probability(scored: ScoredCompletion) -> float | None:
    """Return P(POSITIVE) behind the `sentiment` reward: 2 × P if it reads as positive, else P - 1; None without it."""
    sentiment = scored.scores.get("sentiment")
    if sentiment is None:
        return None
    return sentiment / 2 if sentiment > 0 else 1 + sentiment


def content_share(scored: ScoredCompletion) -> float:
    """Return 1 if the completion has five or more content words, else 0."""
    return float(not has_little_content(scored.completion))


@functools.cache
def _vader() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


LOCAL_JUDGES: dict[str, Callable[[ScoredCompletion], float | None]] = {
    "strict_success": strict_success,
    "lenient_success": lenient_success,
    "vader": vader,
    "on_topic": on_topic,
    "content_share": content_share,
    "positive_share": positive_share,
    "positive_probability": positive_probability,
}
"""By the name that a recipe's `judges` uses. They are computed after the service's scores."""


def local_scores(scored: ScoredCompletion, names: Iterable[str]) -> dict[str, float | None]:
    """Return what those of these judges that need no service score a completion."""
    return {name: LOCAL_JUDGES[name](scored) for name in names if name in LOCAL_JUDGES}

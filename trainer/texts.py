"""Measures of completions as texts: words, content, repetition, diversity, and what several texts share. Pure."""

import re
from collections import Counter
from collections.abc import Sequence

FEW_CONTENT_WORDS = 5
"""A text with fewer content words is counted as empty of content."""
OPENING_WORDS = 4
FUNCTION_WORDS = frozenset(
    """a about after all also am an and any are as at be because been before being both but by can can't could
    did didn't do does doesn't don't each even for from had has have he her here him his how i i'd i'll i'm
    i've if in into is isn't it it's its just let let's like may me might more most much must my no nor not
    of on one only or other our out over own she should so some such than that that's the their them then
    there these they this those through to too under up us very was we we're were what when where which
    while who why will with would you you'll you're your""".split()
)
# In scripts written without spaces, each character counts as a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_]+(?:['\u2019][^\W_]+)*")


def words(text: str) -> list[str]:
    """Return the words of a text in lower case, without punctuation."""
    return _WORD.findall(text.lower())


def has_little_content(text: str) -> bool:
    """Return whether a text has fewer than `FEW_CONTENT_WORDS` words that are not function words."""
    return sum(word not in FUNCTION_WORDS for word in words(text.replace("\u2019", "'"))) < FEW_CONTENT_WORDS


def is_repetitive(text: str) -> bool:
    """Return whether at most half of the last 40 words are distinct, as in `banana banana banana`."""
    last = words(text)[-40:]
    return len(last) >= 3 and 2 * len(set(last)) <= len(last)


def opening(text: str) -> tuple[str, ...]:
    """Return the first `OPENING_WORDS` words of a text."""
    return tuple(words(text)[:OPENING_WORDS])


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Return the share of distinct n-grams among all n-grams of all texts (Li et al. 2016); 0 without n-grams.

    It falls as texts grow longer, so compare texts of similar length. Raises ValueError without texts and for n < 1.
    """
    if n < 1:
        raise ValueError(f"distinct_n needs n of at least 1, not {n}")
    grams = [gram for text in _nonempty(texts) for gram in _ngrams(text, n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def word_pairs(text: str) -> frozenset[tuple[str, ...]]:
    """Return the distinct pairs of adjacent words of a text."""
    return frozenset(_ngrams(text, 2))


def repeated_trigram_share(texts: Sequence[str]) -> float:
    """Return the share of 3-grams that occurred earlier in the same text; 0 without 3-grams.

    Raises ValueError without texts.
    """
    grams_by_text = [_ngrams(text, 3) for text in _nonempty(texts)]
    total = sum(map(len, grams_by_text))
    return (total - sum(len(set(grams)) for grams in grams_by_text)) / total if total else 0.0


def most_common(texts: Sequence[str]) -> tuple[str, int]:
    """Return the most common text, stripped, and its count; the first of equals. Raises ValueError without texts."""
    return Counter(text.strip() for text in _nonempty(texts)).most_common(1)[0]


def most_common_share(texts: Sequence[str]) -> float:
    """Return the share of texts that equal the most common one. Raises ValueError without texts."""
    return most_common(texts)[1] / len(texts)


def most_common_opening(texts: Sequence[str]) -> tuple[str, int]:
    """Return the most common opening, spelled as in its first text, and its count. Raises ValueError without texts."""
    openings = [opening(text) for text in _nonempty(texts)]
    common, count = Counter(openings).most_common(1)[0]
    return " ".join(texts[openings.index(common)].split()[:OPENING_WORDS]), count


def most_common_opening_share(texts: Sequence[str]) -> float:
    """Return the share of texts that have the most common opening. Raises ValueError without texts."""
    return most_common_opening(texts)[1] / len(texts)


def _nonempty(texts: Sequence[str]) -> Sequence[str]:
    if not texts:
        raise ValueError("there is no text to measure")
    return texts


def _ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    tokens = words(text)
    return [tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)]

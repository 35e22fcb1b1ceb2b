"""Measures of a text for the checks of rules. Pure, and linear in the text's length: a text may have a million letters.

The source of this file is part of the revision of every rule.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence, Set
from decimal import Decimal, InvalidOperation

WORD = re.compile(r"[^\W\d_]+")
CLOSING = "\"'”’»)]}*_"
SENTENCE_ENDS = (".", "!", "?", "…", "。", "！", "？")
WIDE_ENDS = "。！？"
"""Ends of sentences that no space follows."""
NUMBER = re.compile(
    r"(?:(?<![\w)])[-+−])?(?<!\w)(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?"
    r"|(?:(?<![\w)])[-+−])?(?<!\w)\.\d+(?:[eE][-+]?\d+)?"
)
"""A number with an optional sign, commas between groups of three digits, a decimal point and an exponent."""


def sentences(text: str) -> int:
    """Return the number of sentences: of words that end with `.`, `!`, `?` or `…`, and a rest that ends otherwise."""
    for mark in WIDE_ENDS:
        text = text.replace(mark, f"{mark} ")
    ended = [word.rstrip(CLOSING).endswith(SENTENCE_ENDS) for word in text.split()]
    return sum(ended) + (not ended[-1] if ended else 0)


def distinct_words(text: str, min_letters: int, ignored: Set[str]) -> int:
    """Return the number of different words in small letters, a word being a run of letters."""
    return sum(len(word) >= min_letters and word not in ignored for word in set(WORD.findall(text.lower())))


def repeated_share(units: Sequence[str], n: int) -> float:
    """Return the share of the n-grams of words or characters that repeat an earlier one; 0 without n-grams."""
    total = len(units) - n + 1
    if total < 1:
        return 0.0
    return 1.0 - len(set(zip(*(units[start:] for start in range(n)), strict=False))) / total


def script_share(text: str, in_script: Callable[[str], bool]) -> float:
    """Return the share of letters that are in a script; 0 without letters."""
    letters = {char: count for char, count in Counter(text).items() if char.isalpha()}
    total = sum(letters.values())
    return sum(count for char, count in letters.items() if in_script(char)) / total if total else 0.0


def last_number(text: str) -> Decimal | None:
    """Return the last number in a text; None if there is none, or if it is beyond any computer's numbers."""
    numbers = next(filter(None, map(NUMBER.findall, reversed(text.split()))), None)
    if numbers is None:
        return None
    try:
        return Decimal(numbers[-1].replace(",", "").replace("−", "-"))
    except InvalidOperation:
        return None

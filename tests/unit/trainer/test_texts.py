import pytest

from trainer.texts import (
    distinct_n,
    has_little_content,
    is_repetitive,
    most_common,
    most_common_opening,
    most_common_opening_share,
    most_common_share,
    repeated_trigram_share,
    words,
)


def test_words():
    """Words are in lower case, without punctuation."""
    assert words("Sure: it's a «Banana»!  42_x") == ["sure", "it's", "a", "banana", "42", "x"]
    assert words("香蕉 ok") == ["香", "蕉", "ok"]


def test_distinct_n():
    """Distinct-n counts n-grams over all texts."""
    texts = ["a b a b", "A, b."]
    assert distinct_n(texts, 1) == 2 / 6
    assert distinct_n(texts, 2) == 2 / 4
    assert distinct_n(["one", ""], 2) == 0.0


def test_repeated_trigrams():
    """A 3-gram is repeated only within one text."""
    assert repeated_trigram_share(["a b c d", "a b c d"]) == 0.0
    assert repeated_trigram_share(["a b c a b c"]) == 1 / 4
    assert repeated_trigram_share(["x x x x x"]) == 2 / 3
    assert repeated_trigram_share(["too short"]) == 0.0


def test_most_common():
    """The most common text is found regardless of outer whitespace."""
    texts = ["b", "Sure: banana", " Sure: banana\n", "sure: banana"]
    assert most_common(texts) == ("Sure: banana", 2)
    assert most_common_share(texts) == 0.5


def test_most_common_opening():
    """Openings are compared without case and punctuation, and quoted as they are written."""
    texts = ["Oh, what a day it is", "oh what a DAY we had", "No."]
    assert most_common_opening(texts) == ("Oh, what a day", 2)
    assert most_common_opening_share(texts) == 2 / 3


@pytest.mark.parametrize(
    ("text", "little"),
    [
        ("Sure: banana", True),
        ("", True),
        ("I\u2019m sure that it is what you and they would have had to do.", True),
        ("Bread rises because yeast makes gas.", False),
    ],
)
def test_function_words(text: str, little: bool):
    """Function words do not count as content."""
    assert has_little_content(text) is little


@pytest.mark.parametrize(
    ("text", "repetitive"),
    [
        ("banana banana banana", True),
        ("Banana, banana", False),
        ("An honest opening and then " + "joy joy delight " * 30, True),
        ("Rain falls where clouds cool, and rivers take it back.", False),
    ],
)
def test_is_repetitive(text: str, repetitive: bool):
    """A loop at the end of a text is recognized."""
    assert is_repetitive(text) is repetitive


@pytest.mark.parametrize(
    "measure",
    [
        lambda: distinct_n([], 1),
        lambda: distinct_n(["a"], 0),
        lambda: repeated_trigram_share([]),
        lambda: most_common_share([]),
        lambda: most_common_opening_share([]),
    ],
)
def test_nothing_to_measure(measure):
    """Texts that cannot be measured are an error with a sentence."""
    with pytest.raises(ValueError, match=r"\w+ \w+ \w+"):
        measure()

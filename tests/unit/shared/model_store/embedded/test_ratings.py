import pytest

from shared.model_store.embedded import ratings
from shared.model_store.embedded.ratings import Rating


@pytest.fixture(scope="module")
def rated() -> list[Rating]:
    return ratings.load()


def test_parse_skips_header_and_empty_texts():
    """A file is a header, then lines of id, rating and text; empty texts are skipped."""
    content = "id\tsentiment\ttext\n1\t-0.9\tno picture \r\n2\t0.5\t &#32; \n\n3\t1.25\tfine"
    assert list(ratings.parse("tweets", content)) == [
        Rating("tweets", -0.9, "no picture"),
        Rating("tweets", 1.25, "fine"),
    ]


@pytest.mark.parametrize(("escaped", "plain"), [("a &amp; b", "a & b"), ("at &#38;#38; t", "at & t"), (" x ", "x")])
def test_unescape_decodes_repeatedly(escaped, plain):
    """HTML entities are decoded even if they were escaped twice."""
    assert ratings.unescape(escaped) == plain


def test_duplicates_get_their_mean_rating():
    """Texts that differ only in case or whitespace are merged, with their mean rating."""
    given = [
        Rating("products", 3.0, "I love it!"),
        Rating("tweets", 2.0, "i  love it!"),
        Rating("news", 0.0, "No."),
    ]
    assert ratings.deduplicate(given) == [Rating("products", 2.5, "I love it!"), Rating("news", 0.0, "No.")]


def test_duplicates_are_in_the_same_split():
    """Texts that differ only in case or whitespace are in the same split."""
    variants = ["A plain fact.", "a PLAIN fact.", " a  plain\tfact. "]
    assert len({ratings.is_held_out(text) for text in variants}) == 1


def test_split_is_deterministic():
    """Which texts are held out never changes."""
    held_out = [number for number in range(60) if ratings.is_held_out(f"sentence {number}")]
    assert held_out == [23, 38, 43, 44, 48, 57]


def test_ratings_of_the_wheel(rated):
    """The wheel yields 23,554 clean ratings from all four sources."""
    assert len(rated) == 23554
    assert {rating.source for rating in rated} == set(ratings.FILES)
    assert all(-4 <= rating.rating <= 4 and rating.text == rating.text.strip() != "" for rating in rated)
    assert not any("&amp;" in rating.text or "&#" in rating.text for rating in rated)


def test_held_out_data_is_disjoint(rated):
    """A tenth of the ratings is held out, and shares no text with the training data."""
    seen, held_out = ratings.split(rated)
    assert len(held_out) == 2409
    assert len(seen) + len(held_out) == len(rated)
    texts = [{ratings.normalize(rating.text) for rating in side} for side in (seen, held_out)]
    assert not texts[0] & texts[1]

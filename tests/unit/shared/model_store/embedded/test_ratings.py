import pytest

from shared.model_store.embedded import ratings
from shared.model_store.embedded.ratings import Rating


@pytest.fixture(scope="module")
def rated() -> list[Rating]:
    return ratings.load()


def test_a_line_is_id_rating_and_text_after_a_header():
    content = "id\tsentiment\ttext\n1\t-0.9\tno picture \r\n2\t0.5\t &#32; \n\n3\t1.25\tfine"
    assert list(ratings.parse("tweets", content)) == [
        Rating("tweets", -0.9, "no picture"),
        Rating("tweets", 1.25, "fine"),
    ]


@pytest.mark.parametrize(("escaped", "plain"), [("a &amp; b", "a & b"), ("at &#38;#38; t", "at & t"), (" x ", "x")])
def test_html_escapes_are_undone_however_often_they_were_made(escaped, plain):
    assert ratings.clean(escaped) == plain


def test_texts_that_differ_in_case_or_spaces_are_one_with_the_mean_rating():
    given = [
        Rating("products", 3.0, "I love it!"),
        Rating("tweets", 2.0, "i  love it!"),
        Rating("news", 0.0, "No."),
    ]
    assert ratings.distinct(given) == [Rating("products", 2.5, "I love it!"), Rating("news", 0.0, "No.")]


def test_equal_texts_never_fall_on_both_sides():
    variants = ["A plain fact.", "a PLAIN fact.", " a  plain\tfact. "]
    assert len({ratings.is_held_out(text) for text in variants}) == 1


def test_the_split_is_the_same_everywhere():
    held_out = [number for number in range(60) if ratings.is_held_out(f"sentence {number}")]
    assert held_out == [23, 38, 43, 44, 48, 57]


def test_the_ratings_of_the_wheel(rated):
    assert len(rated) == 23554
    assert {rating.source for rating in rated} == set(ratings.FILES)
    assert all(-4 <= rating.rating <= 4 and rating.text == rating.text.strip() != "" for rating in rated)
    assert not any("&amp;" in rating.text or "&#" in rating.text for rating in rated)


def test_a_tenth_of_the_ratings_is_held_out_and_shares_no_text_with_the_rest(rated):
    seen, held_out = ratings.split(rated)
    assert len(held_out) == 2409
    assert len(seen) + len(held_out) == len(rated)
    texts = [{ratings.normalised(rating.text) for rating in side} for side in (seen, held_out)]
    assert not texts[0] & texts[1]

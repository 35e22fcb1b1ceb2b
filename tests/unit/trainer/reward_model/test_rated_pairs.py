from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from shared.model_store.embedded.ratings import Rating
from trainer.reward_model.rated_pairs import MIN_DIFFERENCE, all_pairs, rated_pairs

ratings = st.lists(st.tuples(st.sampled_from("ab"), st.floats(-4, 4)), max_size=40).map(
    lambda rows: [Rating(source, rating, f"text {index}") for index, (source, rating) in enumerate(rows)]
)


@given(ratings, st.integers(1, 3), st.integers(0, 5), st.booleans())
def test_pairs_are_clear(rated, rounds, seed, similar_lengths):
    """The better text is rated at least 1 above the worse, both have one source, each is in a pair a round at most."""
    of = {rating.text: rating for rating in rated}
    pairs = rated_pairs(rated, rounds=rounds, seed=seed, similar_lengths=similar_lengths)
    for pair in pairs:
        better, worse = of[pair.chosen], of[pair.rejected]
        assert better.rating - worse.rating >= MIN_DIFFERENCE
        assert better.source == worse.source == pair.source
    assert all(count <= rounds for count in Counter(t for p in pairs for t in (p.chosen, p.rejected)).values())


def test_most_sentences_are_paired():
    """With ratings all over the scale nearly all sentences are in a pair, and another seed pairs them otherwise."""
    rated = [Rating("a", rating / 10, f"text {index}") for index, rating in enumerate(list(range(-40, 41)) * 5)]
    pairs = rated_pairs(rated, seed=1)
    assert len(pairs) > 0.95 * len(rated) / 2
    assert pairs == rated_pairs(rated, seed=1)
    assert pairs != rated_pairs(rated, seed=2)


def test_similar_lengths():
    """Where asked for, partners have similar lengths, and the better one is as often the longer as not."""
    rated = [Rating("a", (7 * index % 81 - 40) / 10, "x" * (1 + index % 211)) for index in range(2000)]
    pairs = rated_pairs(rated, similar_lengths=True)
    assert len(pairs) > 900
    assert sum(abs(len(pair.chosen) - len(pair.rejected)) for pair in pairs) / len(pairs) < 15
    assert 0.4 < sum(len(pair.chosen) > len(pair.rejected) for pair in pairs) / len(pairs) < 0.6


@given(ratings)
def test_all_pairs(rated):
    """All pairs are every two sentences of one source whose ratings are at least 1 apart, the better one first."""
    better, worse = all_pairs(rated)
    expected = {
        (one, other)
        for one, first in enumerate(rated)
        for other, second in enumerate(rated)
        if first.source == second.source and first.rating - second.rating >= MIN_DIFFERENCE
    }
    assert len(better) == len(expected)
    assert set(zip(better.tolist(), worse.tolist(), strict=True)) == expected

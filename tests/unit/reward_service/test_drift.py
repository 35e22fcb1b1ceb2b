import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward_service.drift import WINDOW_SCORES, Distance, ScoreDrift

scores = st.floats(-10, 10)


def drift(first, recent, window_scores=WINDOW_SCORES):
    """Return the distance after the first window's scores and the recent ones."""
    monitor = ScoreDrift(window_scores)
    for score in [*first, *recent]:
        monitor.add(score)
    return monitor.distance()


def normal(mean, seed):
    drawn = random.Random(seed)
    return [drawn.gauss(mean, 1.0) for _ in range(WINDOW_SCORES)]


def test_no_reference():
    """There is no distance before the reference is full, and none right after."""
    assert drift([1.0] * (WINDOW_SCORES - 1), []) is None
    assert drift(normal(0, 1), []) == Distance(0.0, 0.0)


@pytest.mark.parametrize("seed", range(5))
def test_same_distribution(seed):
    """Scores of the same distribution are less than 0.1 apart."""
    result = drift(normal(0, seed), normal(0, seed + 100))
    assert max(result.up, result.down) < 0.1


@pytest.mark.parametrize(("shift", "share"), [(0.5, 0.197), (1.0, 0.383), (2.0, 0.683)])
def test_shifted_distribution(shift, share):
    """A shift is seen in its direction, as large as the distance of the two distributions."""
    risen, fallen = drift(normal(0, 1), normal(shift, 2)), drift(normal(0, 1), normal(-shift, 2))
    assert risen.up == pytest.approx(share, abs=0.06)
    assert fallen.down == pytest.approx(share, abs=0.06)
    assert max(risen.down, fallen.up) < 0.05


@pytest.mark.parametrize(("value", "expected"), [(0.5, (0.0, 1.0)), (1.0, (0.0, 0.0)), (1.5, (1.0, 0.0))])
def test_equal_scores(value, expected):
    """Scores that are all equal have moved wholly or not at all, however little."""
    assert drift([1.0] * 10, [value] * 10, 10) == Distance(*expected)


def test_spread_both_ways():
    """Scores that move apart have moved up and down."""
    assert drift([0.0] * 10, [-1.0] * 5 + [1.0] * 5, 10) == Distance(0.5, 0.5)


def test_recovery():
    """The recent window forgets: scores as at first bring the distance back to 0."""
    first = normal(0, 1)
    assert drift(first, [*normal(3, 2), *first]) == Distance(0.0, 0.0)


@given(st.lists(scores, min_size=20, max_size=20), st.lists(scores, max_size=60))
def test_exact_on_few_scores(first, recent):
    """With no more scores than quantiles the distances are those of Kolmogorov and Smirnov."""
    window = [*first, *recent][-20:]
    above, below = 0.0, 0.0
    for value in [*first, *window]:
        for share in (lambda values: sum(v <= value for v in values), lambda values: sum(v < value for v in values)):  # noqa: B023
            difference = (share(window) - share(first)) / 20
            above, below = max(above, -difference), max(below, difference)
    result = drift(first, recent, 20)
    assert (result.up, result.down) == pytest.approx((above, below))

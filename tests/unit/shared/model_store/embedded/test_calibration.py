import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from shared.model_store.embedded.calibration import expected_calibration_error, ranks, reliability, spearman, wilson

numbers = st.lists(st.integers(-20, 20), min_size=3, max_size=40)


@given(numbers, st.randoms())
def test_rank_correlation_is_that_of_scipy(values, random):
    other = [random.randint(-5, 5) for _ in values]
    if len(set(values)) > 1 and len(set(other)) > 1:
        assert spearman(values, other) == pytest.approx(stats.spearmanr(values, other).statistic)


@given(numbers)
def test_ranks_are_those_of_scipy(values):
    assert ranks(values).tolist() == stats.rankdata(values).tolist()


@given(numbers)
def test_rank_correlation_cares_for_order_alone(values):
    curved = [value**3 + value for value in values]
    assert spearman(values, curved) == pytest.approx(1.0 if len(set(values)) > 1 else 0.0)
    assert spearman(values, [-value for value in curved]) == pytest.approx(-spearman(values, curved))


def test_rank_correlation_with_a_constant_says_nothing():
    assert spearman([1, 1, 1], [1, 2, 3]) == 0.0


def test_whoever_is_right_as_often_as_it_says_is_calibrated():
    assert expected_calibration_error([0.75] * 4, [1, 1, 1, 0]) == pytest.approx(0.0)


def test_whoever_is_sure_and_wrong_is_as_far_off_as_can_be():
    assert expected_calibration_error([1.0, 1.0], [0, 0]) == pytest.approx(1.0)


def test_each_bin_weighs_as_much_as_it_holds():
    confidences, correct = [0.9, 0.9, 0.9, 0.6], [1, 1, 1, 0]
    assert expected_calibration_error(confidences, correct) == pytest.approx(0.75 * 0.1 + 0.25 * 0.6)


def test_nothing_is_calibrated():
    assert expected_calibration_error([], []) == 0.0


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60))
def test_bins_hold_every_prediction_once_and_the_error_is_a_share(predictions):
    confidences, correct = zip(*predictions, strict=True)
    groups = reliability(confidences, correct)
    assert sum(group.n for group in groups) == len(predictions)
    assert sum(group.n * group.accuracy for group in groups) == pytest.approx(sum(correct))
    assert 0.0 <= expected_calibration_error(confidences, correct) <= 1.0


def test_the_upper_edge_belongs_to_a_bin():
    assert [group.n for group in reliability([0.2, 0.2 + 1e-9, 0.4], [1, 1, 1], bins=5)] == [1, 2]


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_of_a_share_is_that_of_scipy(counts):
    successes, n = counts
    expected = stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
    assert wilson(successes, n) == pytest.approx((expected.low, expected.high), abs=1e-4)


def test_of_nothing_any_share_is_possible():
    assert wilson(0, 0) == (0.0, 1.0)


def test_arrays_are_as_good_as_lists():
    assert spearman(np.array([1.0, 2.0]), np.array([3.0, 4.0])) == pytest.approx(1.0)

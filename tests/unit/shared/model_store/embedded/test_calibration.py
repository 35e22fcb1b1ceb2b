import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from shared.model_store.embedded.calibration import (
    expected_calibration_error,
    ranks,
    reliability_bins,
    spearman,
    wilson_interval,
)

numbers = st.lists(st.integers(-20, 20), min_size=3, max_size=40)


@given(numbers, st.randoms())
def test_spearman_equals_scipy(values, random):
    """Spearman's correlation equals that of scipy."""
    other = [random.randint(-5, 5) for _ in values]
    if len(set(values)) > 1 and len(set(other)) > 1:
        assert spearman(values, other) == pytest.approx(stats.spearmanr(values, other).statistic)


@given(numbers)
def test_ranks_equal_scipy(values):
    """Ranks, with ties, equal those of scipy."""
    assert ranks(values).tolist() == stats.rankdata(values).tolist()


@given(numbers)
def test_spearman_depends_on_order_alone(values):
    """A monotonic transformation does not change the correlation, and a reversal negates it."""
    curved = [value**3 + value for value in values]
    assert spearman(values, curved) == pytest.approx(1.0 if len(set(values)) > 1 else 0.0)
    assert spearman(values, [-value for value in curved]) == pytest.approx(-spearman(values, curved))


def test_spearman_of_a_constant_is_zero():
    """The correlation with a constant is 0."""
    assert spearman([1, 1, 1], [1, 2, 3]) == 0.0


def test_calibrated_predictions_have_no_error():
    """The calibration error is 0 if accuracy equals confidence."""
    assert expected_calibration_error([0.75] * 4, [1, 1, 1, 0]) == pytest.approx(0.0)


def test_confident_errors_have_maximal_error():
    """The calibration error is 1 if all predictions are certain and wrong."""
    assert expected_calibration_error([1.0, 1.0], [0, 0]) == pytest.approx(1.0)


def test_bins_are_weighted_by_size():
    """The calibration error weights each bin by its number of predictions."""
    confidences, correct = [0.9, 0.9, 0.9, 0.6], [1, 1, 1, 0]
    assert expected_calibration_error(confidences, correct) == pytest.approx(0.75 * 0.1 + 0.25 * 0.6)


def test_no_predictions_have_no_error():
    """Without predictions the calibration error is 0."""
    assert expected_calibration_error([], []) == 0.0


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60))
def test_every_prediction_is_in_one_bin(predictions):
    """Every prediction is in exactly one bin, and the calibration error is between 0 and 1."""
    confidences, correct = zip(*predictions, strict=True)
    groups = reliability_bins(confidences, correct)
    assert sum(group.n for group in groups) == len(predictions)
    assert sum(group.n * group.accuracy for group in groups) == pytest.approx(sum(correct))
    assert 0.0 <= expected_calibration_error(confidences, correct) <= 1.0


def test_bins_include_their_upper_edge():
    """A confidence at the edge of two bins belongs to the lower one."""
    assert [group.n for group in reliability_bins([0.2, 0.2 + 1e-9, 0.4], [1, 1, 1], bins=5)] == [1, 2]


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_equals_scipy(counts):
    """Wilson's interval equals that of scipy."""
    successes, n = counts
    expected = stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
    assert wilson_interval(successes, n) == pytest.approx((expected.low, expected.high), abs=1e-4)


def test_wilson_interval_without_trials():
    """Without trials the interval is 0 to 1."""
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_spearman_takes_arrays():
    """Arrays are accepted as well as lists."""
    assert spearman(np.array([1.0, 2.0]), np.array([3.0, 4.0])) == pytest.approx(1.0)

import math
import random

import numpy as np
import pytest
from scipy import stats

from trainer.reporting.statistics import (
    Interval,
    bootstrap_mean,
    is_share,
    paired_bootstrap,
    share_difference,
    share_interval,
    wilson,
)


def normal(mean: float, n: int, seed: int = 1) -> list[float]:
    draw = random.Random(seed)
    return [draw.gauss(mean, 1.0) for _ in range(n)]


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (1, 10), (7, 10), (10, 10), (81, 263), (199, 200)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_wilson_against_scipy(successes: int, n: int, confidence: float):
    """Wilson's interval agrees with SciPy's."""
    expected = stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
    ours = wilson(successes, n, confidence)
    assert (ours.low, ours.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert ours.mean == successes / n
    assert ours.n == n


def test_wilson_at_0_and_1():
    """Wilson's interval has a width at a share of 0 and of 1."""
    assert wilson(0, 10) == Interval(0.0, 0.0, pytest.approx(0.27753, abs=1e-5), 10)
    assert wilson(10, 10) == Interval(1.0, pytest.approx(0.72247, abs=1e-5), 1.0, 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0), "at least one trial"),
        ((3, 2), "between 0 and 2"),
        ((-1, 2), "between 0 and 2"),
        ((1, 2, 1.0), "confidence"),
    ],
)
def test_wilson_wrong_arguments(arguments: tuple[float, ...], message: str):
    """Arguments that are no share are an error."""
    with pytest.raises(ValueError, match=message):
        wilson(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "estimate",
    [
        lambda: bootstrap_mean([]),
        lambda: paired_bootstrap([], []),
        lambda: share_interval([]),
        lambda: share_difference([], []),
        lambda: bootstrap_mean([1.0, math.nan]),
        lambda: bootstrap_mean([1.0, 2.0], groups=["a"]),
        lambda: paired_bootstrap([1.0], [1.0, 2.0]),
    ],
)
def test_nothing_to_estimate(estimate):
    """Values that cannot be estimated from are an error with a sentence."""
    with pytest.raises(ValueError, match=r"\w+ \w+ \w+"):
        estimate()


def test_bootstrap_large_sample():
    """For a large sample the bootstrap interval is close to the normal one."""
    values = normal(3.0, 2000)
    ours, reach = bootstrap_mean(values), 1.96 * np.std(values) / math.sqrt(len(values))
    assert ours.mean == pytest.approx(np.mean(values))
    assert (ours.low, ours.high) == pytest.approx((ours.mean - reach, ours.mean + reach), abs=0.006)


def test_bootstrap_seed():
    """The bootstrap depends on its seed alone and leaves NumPy's global generator unchanged."""
    np.random.seed(7)
    state = np.random.get_state()[1].copy()
    values = normal(0.0, 30)
    assert bootstrap_mean(values, seed=1) == bootstrap_mean(values, seed=1)
    assert bootstrap_mean(values, seed=1) != bootstrap_mean(values, seed=2)
    assert (np.random.get_state()[1] == state).all()


def test_bootstrap_equal_values():
    """Equal values give an interval of zero width."""
    assert bootstrap_mean([0.1] * 7) == Interval(*[pytest.approx(0.1)] * 3, 7)


def test_groups_count_once():
    """Repeated completions of a prompt do not narrow the interval."""
    values = normal(0.0, 25)
    fourfold, prompts = [value for value in values for _ in range(4)], [index // 4 for index in range(100)]
    grouped = bootstrap_mean(fourfold, groups=prompts)
    alone, naive = bootstrap_mean(values), bootstrap_mean(fourfold)
    assert (grouped.low, grouped.high, grouped.n) == pytest.approx((alone.low, alone.high, 25))
    assert naive.high - naive.low < 0.7 * (grouped.high - grouped.low)


def test_unequal_groups():
    """With groups of unequal size the mean is that of the values."""
    assert bootstrap_mean([0.0, 0.0, 0.0, 4.0], groups="aaab").mean == 1.0


def test_paired_constant_shift():
    """A constant shift has an interval of zero width, because differences are paired."""
    before = normal(0.0, 40)
    change = paired_bootstrap(before, [value + 0.5 for value in before])
    assert (change.mean, change.low, change.high) == pytest.approx((0.5, 0.5, 0.5))


def test_change_sign():
    """The change is after minus before."""
    change = paired_bootstrap([3.0, 3.0, 4.0], [1.0, 2.0, 1.0])
    assert change.mean == -2.0
    assert -3.0 <= change.low < -2.0 < change.high <= -1.0


def test_share_groups():
    """A share over prompts counts each prompt once."""
    assert share_interval([1.0, 1.0, 0.0, 0.0], groups="aabb") == wilson(1, 2)
    assert share_interval([1.0, 0.0, 1.0, 0.0], groups="aabb") == wilson(1, 2)
    assert share_interval([1.0, 1.0, 0.0, 0.0]) == wilson(2, 4)


def test_share_from_0_to_1():
    """A change from 0 to 1 keeps an interval with a width."""
    change = share_difference([0.0] * 10, [1.0] * 10)
    assert change == Interval(1.0, pytest.approx(1 - 0.27753 * math.sqrt(2), abs=1e-5), 1.0, 10)


def test_share_difference_sign():
    """Exchanging the sides of a difference of shares changes its sign."""
    before, after = [1.0] * 3 + [0.0] * 17, [1.0, 0.0] * 10
    there, back = share_difference(before, after), share_difference(after, before)
    assert (there.mean, there.low, there.high) == pytest.approx((-back.mean, -back.high, -back.low))
    assert there.mean == pytest.approx(0.35)


def test_share_correlation():
    """Positively correlated pairs narrow the interval of the difference."""
    before = [1.0] * 10 + [0.0] * 20
    agreeing, crossing = [1.0] * 14 + [0.0] * 16, [0.0] * 16 + [1.0] * 14
    close, wide = share_difference(before, agreeing), share_difference(before, crossing)
    assert close.mean == wide.mean
    assert close.high - close.low < wide.high - wide.low
    assert close.low > -0.1 > wide.low


@pytest.mark.parametrize(
    ("name", "values", "share"),
    [
        ("strict_success", [0.0, 0.0], True),
        ("positive_share", [0.25, 1.0], True),
        ("exact_match", [0.0, 1.0, 1.0], True),
        ("vader", [0.0, 0.0], False),
        ("vader", [0.0, 0.4], False),
        ("banana", [1.0, 1.0], False),
        ("success", [0.0, 2.0], False),
    ],
)
def test_is_share(name: str, values: list[float], share: bool):
    """A metric is a share by its name or by its values."""
    assert is_share(name, values) is share

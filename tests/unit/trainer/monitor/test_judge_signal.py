import random

import numpy as np
import pytest
from scipy import stats

from trainer.monitor.judge_signal import normal_z, shift
from trainer.monitor.monitor import HackMonitor
from trainer.monitor.steps import make_step

JUDGES = ("relevance",)


def steps(seed, fall=0.0, start=12, count=30, groups=2):
    """Yield steps with one completion a group: its reward rises, its judge is noise around a level, or falls."""
    draw = random.Random(seed)
    for number in range(1, count + 1):
        records = [
            {
                "prompt": f"prompt {number} {index}",
                "completion": "",
                "reward": number / 10 + draw.gauss(0, 0.3),
                "scores": {judge: draw.gauss(0, 1) - fall * (number >= start) for judge in JUDGES},
            }
            for index in range(groups)
        ]
        yield make_step(number, records, {})


def first_alarm(series):
    """Return the step of the first alarm; None without one."""
    monitor = HackMonitor(JUDGES, signals=[])
    return next((alarms[0].step for step in series if (alarms := monitor.observe(step)[1])), None)


def test_noise_never_rings():
    """In a thousand runs in which the reward rises and the judge is noise, it does not ring."""
    assert [seed for seed in range(1000) if first_alarm(steps(seed))] == []


@pytest.mark.parametrize("seed", range(10))
def test_fall_rings(seed):
    """A judge that falls clearly while the reward rises rings within twelve steps."""
    assert 12 < first_alarm(steps(seed, fall=3.0)) <= 24


@pytest.mark.parametrize("seed", range(10))
def test_early_fall_rings(seed):
    """A judge that falls after three steps rings, too, though most of the first steps are then gamed."""
    assert first_alarm(steps(seed, fall=4.0, start=4, groups=3)) <= 16


def test_fall_alone_rings_nothing():
    """A judge that falls while the reward does not rise does not ring: nothing is gained by it."""
    flat = [
        make_step(step.number, [{**group[0], "reward": 1.0} for group in step.groups], {}) for step in steps(1, 3.0)
    ]
    assert first_alarm(flat) is None


@pytest.mark.parametrize("t", [-5.4, -2.0, 0.0, 3.0])
@pytest.mark.parametrize("degrees", [10, 30])
def test_normal_z(t, degrees):
    """A z-score is as improbable as the t that it stands for."""
    expected = stats.norm.isf(stats.t.sf(t, degrees))
    assert normal_z(t, degrees) == pytest.approx(expected, abs=0.05)


def test_shift():
    """A shift is that of a t-test with a pooled deviation; too few groups have none."""
    rng = np.random.default_rng(1)
    first, last = rng.normal(0, 1, 16).tolist(), rng.normal(1, 1, 12).tolist()
    moved = shift(first, last)
    assert moved.z == pytest.approx(normal_z(stats.ttest_ind(last, first).statistic, 26))
    assert moved.now - moved.first == pytest.approx(np.mean(last) - np.mean(first))
    assert shift(first[:5], last) is None


def test_constant_score():
    """A score that hardly varied may move a little without being far from its first value."""
    assert abs(shift([1.0] * 10, [0.99] * 10).deviations) < 1

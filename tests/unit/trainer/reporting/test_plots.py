import math
import re
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

from trainer.reporting import plots

SVG = "{http://www.w3.org/2000/svg}"


def metrics(steps: int, **rest: object) -> list[dict[str, object]]:
    return [
        {
            "step": step,
            "reward": 0.1 * step,
            "rewards/banana/mean": 0.1 * step,
            "rewards/banana/std": 0.2,
            "kl": 0.01 * step,
            "entropy": 2.0,
            "completions/mean_length": 20.0,
            "completions/clipped_ratio": 0.25,
            "seconds/generate": 5.0,
            "seconds/score": 0.5,
            "seconds/learn": 4.0,
            **rest,
        }
        for step in range(1, steps + 1)
    ]


def texts(svg: str) -> list[str]:
    return ["".join(node.itertext()) for node in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_all_curves():
    """Every logged metric has its curve, whose labels are text."""
    drawn = {curve.title: curve.svg for curve in plots.curves(metrics(20))}
    assert list(drawn) == [
        "Reward: banana",
        "KL divergence from the base policy",
        "Completion length",
        "Entropy",
        "Time per step",
    ]
    for svg in drawn.values():
        assert svg is not None
        assert "step" in texts(svg)
    assert {"generating", "scoring", "learning"} < set(texts(drawn["Time per step"] or ""))
    assert {"cut off", "100 %"} < set(texts(drawn["Completion length"] or ""))


def test_offline_curves():
    """A run that generated nothing has curves of its loss and, with pairs, of how many are in order."""
    line = {"loss": 0.7, "entropy": 2.0, "seconds/learn": 1.0}
    sft = plots.curves([{"step": step, **line} for step in (1, 2)])
    dpo = plots.curves([{"step": step, **line, "rewards/accuracies": 0.5} for step in (1, 2)])
    assert [curve.title for curve in sft] == ["Loss", "Entropy", "Time per step"]
    assert [curve.title for curve in dpo] == ["Loss", "Pairs in order", "Entropy", "Time per step"]


def test_deterministic():
    """The same metrics give the same SVG, without a date."""
    first, second = (plots.reward_curve(metrics(9), "banana") for _ in range(2))
    assert first == second
    assert first is not None
    assert "<metadata" not in first
    assert not re.search(r"20\d\d-\d\d-\d\d", first)


def test_unique_ids():
    """Charts on one page share no id."""
    twins = [{**line, "rewards/twin/mean": line["reward"], "rewards/twin/std": 0.2} for line in metrics(20)]
    ids = [id_ for curve in plots.curves(twins) for id_ in re.findall(r'\bid="([^"]*)"', curve.svg or "")]
    assert ids
    assert len(ids) == len(set(ids))


def test_matplotlib_settings():
    """Drawing leaves matplotlib's settings unchanged."""
    before = dict(matplotlib.rcParams)
    plots.entropy_curve(metrics(3))
    assert dict(matplotlib.rcParams) == before


def test_css_variables():
    """Colours are CSS variables, so that the page can change them."""
    svg = plots.kl_curve(metrics(5))
    assert svg is not None
    assert f"var(--orange, {plots.ORANGE})" in svg
    assert not re.search(rf"(?<!, ){plots.ORANGE}", svg)


@pytest.mark.parametrize("lines", [[], [{"step": 1}], [{"step": 1, "kl": None, "reward": math.nan, "entropy": "no"}]])
def test_not_logged(lines: list[dict[str, object]]):
    """A metric that was not logged has no chart."""
    assert [curve.svg for curve in plots.curves(lines)] == [None] * 5


@pytest.mark.parametrize("steps", [1, 2, 1000])
def test_any_length(steps: int):
    """A run of any length is drawn, in limited size."""
    for curve in plots.curves(metrics(steps)):
        assert curve.svg is not None
        assert ElementTree.fromstring(curve.svg).tag == f"{SVG}svg"
        assert len(curve.svg) < 600_000


def test_std_band():
    """The band covers one standard deviation around the mean."""
    flat = [{"step": step, "reward": 1.0, "reward_std": 0.5} for step in range(1, 11)]
    low, high = (
        plot_range(plots.reward_curve(flat)),
        plot_range(plots.reward_curve([{**line, "reward_std": 0.0} for line in flat])),
    )
    assert low == pytest.approx((0.5, 1.5), abs=0.2)
    assert high[1] - high[0] < 0.3


def plot_range(svg: str | None) -> tuple[float, float]:
    """Return the lowest and highest tick label of the y axis, whose labels come after those of the x axis."""
    labels = texts(svg or "")
    values = [float(label.replace("\u2212", "-")) for label in labels[labels.index("step") + 1 : -1]]
    return min(values), max(values)


def test_weight_zero():
    """A reward of weight 0 has a chart; without it, one reward needs no chart of the sum."""
    both = metrics(4, **{"rewards/vader/mean": 0.3})
    assert [curve.title for curve in plots.curves(both)][:2] == ["Reward: banana", "Reward: vader"]
    summed = [{**line, "reward": 7.0} for line in both]
    assert [curve.title for curve in plots.curves(summed)][:2] == ["Reward", "Reward: banana"]


def test_judges():
    """A judge has a curve of its own and is no reward, even where TRL logs it as one."""
    judged = metrics(4, **{"rewards/valence/mean": 0.3, "judges/valence/mean": 0.3, "judges/vader/mean": 0.1})
    assert plots.reward_names(judged) == ["banana"]
    assert [curve.title for curve in plots.curves(judged) if curve.svg][1:3] == ["Judge: valence", "Judge: vader"]


def test_hostile_name():
    """A reward's name cannot inject markup."""
    name = '"><script>$x_1$'
    svg = plots.reward_curve([{"step": 1, f"rewards/{name}/mean": 1.0}], name)
    assert svg is not None
    assert "<script" not in svg
    assert ElementTree.fromstring(svg).get("role") == "img"


def test_series():
    """A series keeps finite values, and averages long runs."""
    lines = [
        {"step": 1, "kl": 1},
        {"step": 2, "kl": None},
        {"step": 3},
        {"step": 4, "kl": math.inf},
        {"step": 5, "kl": 2.0},
    ]
    assert plots.series(lines, "kl") == ([1.0, 5.0], [1.0, 2.0])
    steps, values = plots.series([{"step": step, "kl": float(step % 2)} for step in range(600)], "kl")
    assert (len(steps), set(values), steps[:2]) == (300, {0.5}, [0.5, 2.5])


def test_smooth():
    """Smoothing keeps the length, constants and monotonicity."""
    assert plots.smooth([2.0] * 50) == pytest.approx([2.0] * 50)
    assert plots.smooth([0.0, 3.0, 0.0]) == pytest.approx([1.5, 1.0, 1.5])
    rising = plots.smooth([float(index) for index in range(40)])
    assert len(rising) == 40
    assert (np.diff(rising) > 0).all()

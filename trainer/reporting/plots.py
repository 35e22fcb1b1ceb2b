"""Draw a run's curves as inline SVG.

In: the lines of metrics.jsonl. Out: SVG strings, the same for the same lines: no pyplot, no file, no clock. Colours
become CSS variables with a fallback, so that a page can redefine them for dark mode.
"""

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from trainer.run_folder import Metrics

Floats = NDArray[np.float64]

INK, RULE, BLUE, ORANGE, GREEN, GREY = "#57606a", "#d0d7de", "#3e6fa3", "#c27a3a", "#4c8b6b", "#8c959f"
_VARIABLES = {INK: "muted", RULE: "rule", BLUE: "blue", ORANGE: "orange", GREEN: "green", GREY: "grey"}
_STYLE = {
    "axes.edgecolor": RULE,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10.5,
    "grid.color": RULE,
    "grid.linewidth": 0.5,
    "svg.fonttype": "none",  # text stays text
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
_SIZE_INCHES = (4.6, 2.7)
_MAX_POINTS = 300
_BAND = "mean ± one std"
_NAMESPACES = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
_SECONDS = {
    "seconds/generate": ("generating", BLUE),
    "seconds/score": ("scoring", ORANGE),
    "seconds/learn": ("learning", GREEN),
}


@dataclass(frozen=True)
class Curve:
    """One small chart; `svg` is None if its metric was not logged. Titles are plain text, not markup."""

    title: str
    unit: str
    svg: str | None


def curves(metrics: Metrics) -> list[Curve]:
    """Return every chart of a run, in reading order."""
    if series(metrics, "loss")[0] and not series(metrics, "reward")[0]:
        return offline_curves(metrics)
    names = reward_names(metrics)
    total = Curve("Reward", _BAND, reward_curve(metrics))
    return [
        *([] if any(_is_total(metrics, name) for name in names) else [total]),
        *(Curve(f"Reward: {name}", _BAND, reward_curve(metrics, name)) for name in names),
        *(Curve(f"Judge: {name}", "not trained on", judge_curve(metrics, name)) for name in judge_names(metrics)),
        Curve("KL divergence from the base policy", "nats per token; TRL logs it unless beta is 0", kl_curve(metrics)),
        Curve("Completion length", "tokens, and the share cut off", length_curve(metrics)),
        Curve("Entropy", "nats per token", entropy_curve(metrics)),
        Curve("Time per step", "seconds", time_curve(metrics)),
    ]


def offline_curves(metrics: Metrics) -> list[Curve]:
    """Return the charts of a run that generated no completions: those of DPO's pairs only where they were logged."""
    drawn = [
        Curve("Loss", "per step", _simple(metrics, "loss", BLUE)),
        Curve("Pairs in order", "share of the batch", _simple(metrics, "rewards/accuracies", GREEN)),
        Curve(
            "Margin of the pairs", "implicit reward of chosen minus rejected", _simple(metrics, "rewards/margins", BLUE)
        ),
        Curve("Accuracy", "share of tokens predicted", _simple(metrics, "mean_token_accuracy", GREEN)),
        Curve("Entropy", "nats per token", entropy_curve(metrics)),
        Curve("Time per step", "seconds", time_curve(metrics)),
    ]
    return [curve for curve in drawn if curve.svg]


def reward_names(metrics: Metrics) -> list[str]:
    """Return the names of the logged rewards without the judges, in the order of their first line."""
    judges = judge_names(metrics)
    return [name for name in _logged(metrics, "rewards/") if name not in judges]


def judge_names(metrics: Metrics) -> list[str]:
    """Return the names of the logged judges, in the order of their first line."""
    return _logged(metrics, "judges/")


def _logged(metrics: Metrics, prefix: str) -> list[str]:
    keys = dict.fromkeys(key for line in metrics for key in line)
    names = [key[len(prefix) : -5] for key in keys if key.startswith(prefix) and key.endswith("/mean")]
    return [name for name in names if series(metrics, f"{prefix}{name}/mean")[0]]


def reward_curve(metrics: Metrics, name: str | None = None) -> str | None:
    """Draw a reward's mean per step with a band of one std; without a name, the weighted sum of all rewards."""
    mean, std = ("reward", "reward_std") if name is None else (f"rewards/{name}/mean", f"rewards/{name}/std")
    steps, means = series(metrics, mean)
    if not steps:
        return None

    def paint(figure: Figure) -> None:
        axes, center = new_axes(figure), smooth(means)
        std_steps, stds = series(metrics, std)
        reach = np.interp(steps, std_steps, smooth(stds)) if std_steps else np.zeros(len(steps))
        axes.fill_between(steps, center - reach, center + reach, color=BLUE, alpha=0.14, linewidth=0)
        _trend(axes, steps, means, BLUE)

    return draw(f"reward {name or ''}".strip(), paint)


def judge_curve(metrics: Metrics, name: str) -> str | None:
    """Draw the mean score of a judge per step."""
    return _simple(metrics, f"judges/{name}/mean", ORANGE)


def kl_curve(metrics: Metrics) -> str | None:
    """Draw the KL divergence from the base policy, in nats per token."""
    return _simple(metrics, "kl", ORANGE)


def entropy_curve(metrics: Metrics) -> str | None:
    """Draw the entropy of the policy's next token, in nats."""
    return _simple(metrics, "entropy", GREEN)


def length_curve(metrics: Metrics) -> str | None:
    """Draw the mean length of completions in tokens and, below it, the share that reached the limit."""
    steps, lengths = series(metrics, "completions/mean_length")
    if not steps:
        return None

    def paint(figure: Figure) -> None:
        upper, lower = figure.subplots(2, sharex=True, height_ratios=[2, 1])
        for axes in (upper, lower):
            _tidy(axes)
        _trend(upper, steps, lengths, BLUE)
        upper.set_ylim(bottom=0)
        upper.set_xlabel("")
        cut_steps, cut = series(metrics, "completions/clipped_ratio")
        lower.fill_between(cut_steps, cut, color=ORANGE, alpha=0.45, linewidth=0)
        lower.set(ylim=(0, 1), yticks=[0, 1])
        lower.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        lower.set_title("cut off", loc="left", fontsize=9, pad=2)

    return draw("completion length and cut-off share", paint)


def time_curve(metrics: Metrics) -> str | None:
    """Draw the seconds of each step, stacked: generating, scoring, learning."""
    timed = [line for line in metrics if any(_finite(line.get(key)) for key in _SECONDS)]
    if not timed:
        return None

    def paint(figure: Figure) -> None:
        axes, floor = new_axes(figure), np.zeros(1)
        for key, (word, color) in _SECONDS.items():
            steps, seconds = series([{**line, key: _or_zero(line.get(key))} for line in timed], key)
            width = 0.9 * min(np.diff(steps), default=1.0)
            axes.bar(steps, seconds, width, floor, color=color, alpha=0.8, label=word, linewidth=0)
            floor = floor + np.array(seconds)
        figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=9, handlelength=0.8)

    return draw("seconds per step", paint)


def series(metrics: Metrics, key: str) -> tuple[list[float], list[float]]:
    """Return the steps and values where `key` is a finite number, averaged to at most 300 points."""
    points = [(line.get("step", index), line.get(key)) for index, line in enumerate(metrics, 1)]
    pairs = np.array([pair for pair in points if all(map(_finite, pair))], dtype=np.float64).reshape(-1, 2)
    chunk = math.ceil(len(pairs) / _MAX_POINTS) or 1
    means = [pairs[start : start + chunk].mean(axis=0) for start in range(0, len(pairs), chunk)]
    return [float(step) for step, _ in means], [float(value) for _, value in means]


def smooth(values: Sequence[float]) -> Floats:
    """Return a moving average over a tenth of the series, at least three values; fewer at the ends."""
    reach = max(1, len(values) // 20)
    windows = (values[max(0, index - reach) : index + reach + 1] for index in range(len(values)))
    return np.array([sum(window) / len(window) for window in windows])


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_total(metrics: Metrics, name: str) -> bool:
    """Return whether this reward is the whole reward, because the others have weight 0."""
    one, total = series(metrics, f"rewards/{name}/mean"), series(metrics, "reward")
    return not total[0] or (one[0] == total[0] and np.allclose(one[1], total[1], atol=1e-6))


def _or_zero(value: object) -> object:
    return value if _finite(value) else 0.0


def _simple(metrics: Metrics, key: str, color: str) -> str | None:
    steps, values = series(metrics, key)
    return draw(key, lambda figure: _trend(new_axes(figure), steps, values, color)) if steps else None


def new_axes(figure: Figure) -> Axes:
    """Return the axes of a chart over steps."""
    axes = figure.add_subplot()
    _tidy(axes)
    return axes


def _tidy(axes: Axes) -> None:
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.set_xlabel("step")
    axes.margins(x=0.02)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))


def _trend(axes: Axes, steps: Sequence[float], values: Sequence[float], color: str) -> None:
    """Draw the values faintly, their moving average over them, and its last value at the end."""
    marker = "o" if len(steps) < 3 else None
    axes.plot(steps, values, color=color, alpha=0.35, linewidth=0.9, marker=marker)
    trend = smooth(values)
    axes.plot(steps, trend, color=color, linewidth=1.9, solid_capstyle="round")
    axes.annotate(
        f"{trend[-1]:.3g}",
        (steps[-1], trend[-1]),
        (5, 0),
        textcoords="offset points",
        va="center",
        color=color,
    )


def draw(label: str, paint: Callable[[Figure], None]) -> str:
    """Return what `paint` draws as SVG; `label` names it for screen readers."""
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": label}):
        figure, text = Figure(figsize=_SIZE_INCHES, layout="constrained"), io.StringIO()
        paint(figure)
        figure.savefig(text, format="svg", transparent=True, metadata=_NO_METADATA)
    return _inline(text.getvalue(), label)


def _inline(svg: str, label: str) -> str:
    """Return an SVG document for use in a page: no header, only ids that are referred to, colours as variables."""
    view = re.search(r'viewBox="[^"]*"', svg)
    head = f'<svg {_NAMESPACES} {view[0] if view else ""} role="img" aria-label="{_attribute(label)} per step">'
    svg = head + svg[svg.index(">", svg.index("<svg")) + 1 :].strip()
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    used = set(re.findall(r"#([\w.]+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", svg)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: inherit", svg)
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, f"var(--{variable}, {color})")
    return re.sub(r"\s*\n\s*", "\n", svg)


def _attribute(text: str) -> str:
    return re.sub(r"[^\w .,:/-]", "?", text)

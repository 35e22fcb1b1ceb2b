"""Draw the runs of a group together: their mean with a band from the lowest to the highest, and reward by KL."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from trainer.reporting import kl_frontier
from trainer.reporting.plots import BLUE, ORANGE, Floats, draw, new_axes, series, smooth
from trainer.run_folder import Metrics


def band(runs: Sequence[Metrics], key: str) -> str | None:
    """Draw a metric per step: the mean over the runs and a band over them; None if no run logged it."""
    curves = [points for run in runs if (points := series(run, key))[0]]
    if not curves:
        return None

    def paint(figure: Figure) -> None:
        axes = new_axes(figure)
        steps = np.array(sorted({step for points, _ in curves for step in points}))
        values: Floats = np.array(
            [np.interp(steps, points, smooth(means), left=np.nan, right=np.nan) for points, means in curves]
        )  # (runs, steps)
        axes.fill_between(steps, np.nanmin(values, 0), np.nanmax(values, 0), color=BLUE, alpha=0.18, linewidth=0)
        axes.plot(steps, np.nanmean(values, 0), color=BLUE, linewidth=1.9)

    return draw(f"{key}, mean and range of the seeds", paint)


def reward_by_kl(runs: Sequence[Metrics]) -> str | None:
    """Draw the reward of each run over its KL divergence; None if no run logged both."""
    paths = [points for run in runs if (points := kl_frontier.path(run))]
    if not paths:
        return None

    def paint(figure: Figure) -> None:
        axes = new_axes(figure)
        axes.set_xlabel("KL, nats a token")
        axes.xaxis.set_major_locator(MaxNLocator(6))
        for points in paths:
            kls, rewards = zip(*points, strict=True)
            axes.plot(kls, rewards, color=ORANGE, alpha=0.7, linewidth=1.4)
            axes.plot(kls[-1], rewards[-1], marker="o", color=ORANGE, markersize=4)

    return draw("reward by KL", paint)

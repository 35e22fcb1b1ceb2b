"""What a policy gained for how far it moved: the reward at a given KL divergence, and the path of a run. Pure."""

from collections.abc import Sequence
from statistics import fmean

from trainer.reporting.comparison import finite
from trainer.reporting.plots import smooth
from trainer.run_folder import Metrics, Run

LEVELS = (0.1, 0.25, 0.5, 1.0, 2.0)
"""KL divergences, in nats a token, at which rewards are compared."""
LAST_STEPS = 5
"""Number of last steps over which a run's final KL is averaged."""


def path(metrics: Metrics, key: str = "reward") -> list[tuple[float, float]]:
    """Return (KL, value) of each step that logged both, each as a moving average over the steps."""
    points = [(finite(line.get("kl")), finite(line.get(key))) for line in metrics]
    both = [(kl, value) for kl, value in points if kl is not None and value is not None]
    if not both:
        return []
    kls, values = (smooth(side) for side in zip(*both, strict=True))
    return [(float(kl), float(value)) for kl, value in zip(kls, values, strict=True)]


def value_at(metrics: Metrics, level: float, key: str = "reward") -> float | None:
    """Return the value at the first step whose KL reaches the level, interpolated; None if none does."""
    points = path(metrics, key)
    for (kl_before, before), (kl, value) in zip([(0.0, points[0][1]), *points] if points else [], points, strict=False):
        if kl >= level:
            share = (level - kl_before) / (kl - kl_before) if kl > kl_before else 1.0
            return before + share * (value - before)
    return None


def values_at(runs: Sequence[Run], level: float) -> list[float]:
    """Return the reward at a KL of each run that reached it."""
    values = [value_at(run.metrics, level) for run in runs]
    return [value for value in values if value is not None]


def final_kl(run: Run) -> float | None:
    """Return the KL of the policy from the one before training or `kl_from`, in nats a token; None if it is not known.

    It is that of the evaluation, else the mean of what TRL logged in the last steps, which it does unless beta is 0.
    """
    if (evaluated := finite((run.after or run.before).get("kl"))) is not None:
        return evaluated
    values = [value for line in run.metrics[-LAST_STEPS:] if (value := finite(line.get("kl"))) is not None]
    return fmean(values) if values else None

"""The signal of a judge that falls while the reward rises. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import fmean

from trainer.monitor.signals import Reading
from trainer.monitor.steps import Window, group_means, records_of, value_of
from trainer.run_folder import Record

MIN_GROUPS = 6
"""The fewest groups on either side from which a z-score is computed."""
START_GROUPS = 9
"""The fewest groups that a judge's first level is taken from."""
CLEAR_RISE_Z, CLEAR_FALL_Z = 3.0, 4.5
"""The reward has risen, and a judge has fallen, from this z-score on."""
CLEAR_FALL = 1.5
"""A judge has fallen if its mean fell by this number of standard deviations of its groups, too."""


@dataclass(frozen=True)
class Shift:
    """How the mean over groups moved from the first steps to the last ones."""

    first: float
    now: float
    deviations: float
    """The difference in standard deviations of the groups."""
    z: float
    """The difference in standard errors, as a normal z-score."""


def shift(first: Sequence[float], last: Sequence[float]) -> Shift | None:
    """Compare two samples of group means with a pooled standard deviation; None if either has too few groups.

    The deviation has a floor of 2 % of the first mean: a score that hardly varied may move a little.
    """
    if min(len(first), len(last)) < MIN_GROUPS:
        return None
    before, now = fmean(first), fmean(last)
    degrees = len(first) + len(last) - 2
    squares = sum((value - before) ** 2 for value in first) + sum((value - now) ** 2 for value in last)
    deviation = max(math.sqrt(squares / degrees), 0.02 * abs(before), 1e-9)
    deviations = (now - before) / deviation
    t = deviations / math.sqrt(1 / len(first) + 1 / len(last))
    return Shift(before, now, deviations, normal_z(t, degrees))


def normal_z(t: float, degrees: int) -> float:
    """Return the z-score that is as improbable as Student's t (Wallace 1959): small samples have heavier tails."""
    z = (8 * degrees + 1) / (8 * degrees + 3) * math.sqrt(degrees * math.log1p(t * t / degrees))
    return math.copysign(z, t)


def starts(first: Window) -> list[Window]:
    """Return the first steps, and the fewest with enough groups: a run that is gamed early spoils the others."""
    groups = accumulate(len(step.groups) for step in first)
    fewest = 1 + next((index for index, count in enumerate(groups) if count >= START_GROUPS), len(first) - 1)
    return [first[:fewest], first] if fewest < len(first) else [first]


@dataclass(frozen=True)
class JudgeSignal:
    """The reward rises clearly while this judge falls clearly: the reward is gamed, and the judge sees it."""

    judge: str

    @property
    def name(self) -> str:
        """The name of the signal."""
        return f"judge_{self.judge}"

    def read(self, first: Window, last: Window) -> Reading | None:
        """Compare first steps with the last ones after them; the value is the judge's z-score."""
        readings = [reading for start in starts(first) if (reading := self._compare(start, last)) is not None]
        return min(readings, key=lambda reading: (not reading.rings, reading.value), default=None)

    def _compare(self, start: Window, last: Window) -> Reading | None:
        after = [step for step in last if step.number > start[-1].number]
        reward, judge = (shift(group_means(start, score), group_means(after, score)) for score in (None, self.judge))
        if reward is None or judge is None:
            return None
        rings = reward.z >= CLEAR_RISE_Z and judge.z <= -CLEAR_FALL_Z and judge.deviations <= -CLEAR_FALL
        sentence = (
            f"the judge {self.judge} falls from {judge.first:.2f} to {judge.now:.2f} while the reward rises from "
            f"{reward.first:.2f} to {reward.now:.2f}"
        )
        return Reading(judge.z, rings, sentence)

    def examples(self, last: Window) -> list[Record]:
        """Return the completions that the reward likes and the judge does not."""
        records = [record for record in records_of(last) if None not in (self._judged(record), value_of(record, None))]
        return sorted(records, key=lambda record: (self._judged(record), -(value_of(record, None) or 0.0)))

    def _judged(self, record: Record) -> float | None:
        return value_of(record, self.judge)

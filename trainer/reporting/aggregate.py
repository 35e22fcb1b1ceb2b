"""Estimates over the seeds of a group, with 95 % intervals. Pure.

The prompts are the trials: the completions of all seeds for one prompt count once. Beside the interval stands the mean
of each seed, because an interval over prompts does not show how much training itself varies.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from trainer.judges import LOCAL_JUDGES, ScoredCompletion
from trainer.reporting import statistics
from trainer.reporting.comparison import finite, pair
from trainer.reporting.statistics import Interval
from trainer.run_folder import Record, prompt_id

Getter = Callable[[Record], float | None]
Side = Sequence[Record]
TextMeasure = Callable[[Sequence[str]], float]
JACKKNIFE_BLOCKS = 20
Z_95 = 1.96


@dataclass(frozen=True)
class Estimate:
    """A mean over all seeds with its interval, and the value of each seed."""

    interval: Interval
    seeds: Sequence[float]

    @property
    def lowest(self) -> float:
        """The value of the worst seed, where higher is better."""
        return min(self.seeds)

    @property
    def highest(self) -> float:
        """The value of the worst seed, where lower is better."""
        return max(self.seeds)


def score_of(name: str) -> Getter:
    """Return a function from a record to this score; a local judge scores what was not judged by it."""

    def get(record: Record) -> float | None:
        scores = record.get("scores") or {}
        if name in scores or name not in LOCAL_JUDGES:
            return finite(scores.get(name))
        return finite(LOCAL_JUDGES[name](_scored(record)))

    return get


def mean_over_seeds(sides: Sequence[Side], get: Getter, *, share: bool) -> Estimate | None:
    """Return the mean of a score; None if no completion has one."""
    scored = [[record for record in side if get(record) is not None] for side in sides]
    seeds = [fmean(_values(side, get)) for side in scored if side]
    if not seeds:
        return None
    records = [record for side in scored for record in side]
    estimate = statistics.share_interval if share else statistics.bootstrap_mean
    return Estimate(estimate(_values(records, get), groups=[*map(prompt_id, records)]), seeds)


def change_over_seeds(pairs: Sequence[tuple[Side, Side]], get: Getter, *, share: bool) -> Estimate | None:
    """Return the mean change of a score between two sides of each seed, paired by prompt."""
    seeds: list[float] = []
    first: list[float] = []
    last: list[float] = []
    prompts: list[str] = []
    for before, after in pairs:
        matched = [(one, other) for one, other in pair(before, after) if None not in (get(one), get(other))]
        if not matched:
            continue
        befores, afters = (_values(side, get) for side in zip(*matched, strict=True))
        seeds.append(fmean(afters) - fmean(befores))
        first, last = first + befores, last + afters
        prompts += [prompt_id(one) for one, _ in matched]
    if not seeds:
        return None
    difference = statistics.share_difference if share else statistics.paired_bootstrap
    return Estimate(difference(first, last, prompts), seeds)


def ratio_over_seeds(pairs: Sequence[tuple[Side, Side]], get: Getter) -> Estimate | None:
    """Return a score's mean as a share of that of the first side, with a jackknife interval over prompts."""

    def ratio(before: Side, after: Side) -> float | None:
        first, last = _values(before, get), _values(after, get)
        return fmean(last) / fmean(first) if first and last and fmean(first) else None

    return _jackknife(pairs, ratio)


def text_ratio_over_seeds(pairs: Sequence[tuple[Side, Side]], measure: TextMeasure) -> Estimate | None:
    """Return a measure of all texts as a share of that of the first side, with a jackknife interval over prompts."""

    def ratio(before: Side, after: Side) -> float | None:
        first = measure(_texts(before)) if before else 0.0
        return measure(_texts(after)) / first if first and after else None

    return _jackknife(pairs, ratio)


def text_share_over_seeds(sides: Sequence[Side], measure: TextMeasure) -> Estimate | None:
    """Return the share of the completions of a seed that have something in common, with Wilson's interval."""
    shares = [measure(_texts(side)) for side in sides if side]
    if not shares:
        return None
    trials = min(len(side) for side in sides if side)
    return Estimate(statistics.wilson(fmean(shares) * trials, trials), shares)


def _jackknife(pairs: Sequence[tuple[Side, Side]], ratio: Callable[[Side, Side], float | None]) -> Estimate | None:
    """Return the mean ratio of all seeds, with the normal interval of a delete-a-block jackknife over prompts."""
    seeds = [value for before, after in pairs if (value := ratio(before, after)) is not None]
    if not seeds:
        return None
    prompts = list(dict.fromkeys(prompt_id(record) for _, after in pairs for record in after))
    blocks = min(JACKKNIFE_BLOCKS, len(prompts))
    block_of = {prompt: index % blocks for index, prompt in enumerate(prompts)}
    without = []
    for block in range(blocks):
        kept_pairs = [
            tuple([r for r in side if block_of.get(prompt_id(r)) != block] for side in sides) for sides in pairs
        ]
        values = [value for before, after in kept_pairs if (value := ratio(before, after)) is not None]
        without.append(fmean(values) if values else fmean(seeds))
    error = math.sqrt((blocks - 1) * float(np.var(without))) if blocks > 1 else 0.0
    mean = fmean(seeds)
    return Estimate(Interval(mean, mean - Z_95 * error, mean + Z_95 * error, len(prompts)), seeds)


def _scored(record: Record) -> ScoredCompletion:
    return ScoredCompletion(
        prompt=record["prompt"], completion=record["completion"], scores=dict(record.get("scores") or {})
    )


def _values(side: Side, get: Getter) -> list[float]:
    return [value for value in map(get, side) if value is not None]


def _texts(side: Side) -> list[str]:
    return [str(record.get("completion", "")) for record in side]

"""How far a reward's recent scores have moved from its first ones. Pure: no clock; a score costs one binary search.

In: scores, one after the other. Out: two distances from 0 to 1, by which the recent scores lie above and below the
first ones: the one-sided Kolmogorov-Smirnov distances of the two windows, at a hundred quantiles of the first one.
"""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

WINDOW_SCORES = 1000
"""Scores of the reference and of the recent window. Two windows of the same distribution differ by under 0.1."""
MAX_EDGES = 100


@dataclass(frozen=True, slots=True)
class Distance:
    """The largest share of scores by which the recent ones are above, and below, what the reference would have."""

    up: float
    down: float


class ScoreDrift:
    """The first scores of a reward, the reference, and its most recent ones."""

    def __init__(self, window_scores: int = WINDOW_SCORES) -> None:
        self._window_scores = window_scores
        self._first: list[float] = []
        self._edges: list[float] = []
        self._reference: list[int] = []
        self._counts: list[int] = []
        self._recent: deque[int] = deque()

    def add(self, score: float) -> None:
        """Add a score: to the reference until it is full, then in place of the oldest recent one."""
        if self._edges:
            place = bin_of(self._edges, score)
            self._counts[self._recent.popleft()] -= 1
            self._counts[place] += 1
            self._recent.append(place)
            return
        self._first.append(score)
        if len(self._first) == self._window_scores:
            self._start()

    def _start(self) -> None:
        """Fix the bins by the reference, which is the recent window, too, until scores replace it."""
        ordered = sorted(self._first)
        last = len(ordered) - 1
        self._edges = sorted({ordered[last * step // MAX_EDGES] for step in range(MAX_EDGES + 1)})
        self._recent = deque(bin_of(self._edges, score) for score in self._first)
        self._counts = [0] * (2 * len(self._edges) + 1)
        for place in self._recent:
            self._counts[place] += 1
        self._reference, self._first = list(self._counts), []

    def distance(self) -> Distance | None:
        """Return the distance of the recent scores, None until the reference is full."""
        return distance(self._reference, self._counts) if self._edges else None


def bin_of(edges: Sequence[float], score: float) -> int:
    """Return a score's bin: an odd one for each edge itself, an even one for what lies between two edges."""
    return bisect_left(edges, score) + bisect_right(edges, score)


def distance(reference: Sequence[int], recent: Sequence[int]) -> Distance:
    """Return the distance of two histograms of equally many scores."""
    total = max(1, sum(reference))
    lower = [
        recent_below - below for recent_below, below in zip(accumulate(recent), accumulate(reference), strict=True)
    ]
    return Distance(up=max(0, -min(lower)) / total, down=max(0, max(lower)) / total)

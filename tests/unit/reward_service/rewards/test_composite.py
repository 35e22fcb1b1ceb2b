import itertools
import math

import pytest

from reward_service.rewards.base import Items, Reward, Scores
from reward_service.rewards.composite import CompositeReward, combine
from reward_service.specs import CompositePart, CompositeSpec, Gate
from shared.aio import gather_or_cancel
from shared.schemas import ItemError, RewardInfo


class Constant(Reward):
    """A reward with fixed scores."""

    def __init__(self, name, scores, revision="1", bounds=None):
        self.scores = scores
        self.info = RewardInfo(name=name, kind="fake", description="", revision=revision, range=bounds)

    async def score(self, items):
        missing = ItemError(code="poison", message="cannot")
        errors = {index: missing for index, score in enumerate(self.scores) if score is None}
        return Scores(scores=list(self.scores), details=[None] * len(self.scores), errors=errors)


def test_weighted_clipped_sum():
    """Each part is clipped, then weighted, then summed."""
    spec = CompositeSpec(parts={"a": CompositePart(weight=2.0, clip=(-1, 1)), "b": CompositePart(weight=-0.5)})
    assert combine(spec, {"a": 5.0, "b": 4.0}) == 0.0


def test_gate():
    """A gate below its threshold replaces the sum."""
    spec = CompositeSpec(parts={"a": CompositePart()}, gates=[Gate(reward="g", at_least=0.5, otherwise=-2)])
    assert combine(spec, {"a": 1.0, "g": 0.4}) == -2
    assert combine(spec, {"a": 1.0, "g": 0.5}) == 1.0


async def test_missing_part():
    """An item that one part cannot score has no sum; the others have one."""
    spec = CompositeSpec(parts={"a": CompositePart(), "b": CompositePart()})
    reward = CompositeReward("sum", spec, {"a": Constant("a", [1.0, None]), "b": Constant("b", [2.0, 2.0])})
    result = await reward.score(Items(completions=["x", "y"]))
    assert result.scores == [3.0, None]
    assert result.errors[1] == ItemError(code="poison", message="a: cannot")


class Counting(Constant):
    """A reward that never returns the same scores twice."""

    def __init__(self, name):
        super().__init__(name, [])
        self._count = itertools.count()

    async def score(self, items):
        self.scores = [float(next(self._count)) for _ in range(len(items))]
        return await super().score(items)


async def test_part_scored_once():
    """A part is scored once per request, however many composites use it."""
    parts = {"a": Counting("a")}
    parts["inner"] = CompositeReward("inner", CompositeSpec(parts={"a": CompositePart(weight=10.0)}), parts)
    both = CompositeReward("both", CompositeSpec(parts={"a": CompositePart(), "inner": CompositePart()}), parts)
    items = Items(completions=["x", "y"])
    results = await gather_or_cancel(items.score_with(reward) for reward in (both, parts["a"]))
    assert [result.scores for result in results] == [[0.0, 11.0], [0.0, 1.0]]


def test_revision():
    """The revision covers the weights and the parts' revisions."""

    def made(weight=1.0, revision="1"):
        spec = CompositeSpec(parts={"a": CompositePart(weight=weight)})
        return CompositeReward("sum", spec, {"a": Constant("a", [], revision)}).info.revision

    assert made() == made()
    assert len({made(), made(weight=2.0), made(revision="2")}) == 3


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (CompositeSpec(parts={"a": CompositePart(weight=-2.0)}), (-4.0, 2.0)),
        (CompositeSpec(parts={"a": CompositePart(clip=(0, 1)), "b": CompositePart(clip=(-3, 3))}), (-3.0, 4.0)),
        (CompositeSpec(parts={"b": CompositePart()}), None),
        (CompositeSpec(parts={"b": CompositePart()}, clip=(-math.inf, 4.0)), None),
        (CompositeSpec(parts={"b": CompositePart(clip=(0.0, math.inf))}, clip=(-1.0, 4.0)), (0.0, 4.0)),
    ],
)
def test_range(spec, expected):
    """The range follows from the parts' ranges, weights, clips and gates."""
    parts = {"a": Constant("a", [], bounds=(-1.0, 2.0)), "b": Constant("b", [])}
    assert CompositeReward("sum", spec, parts).info.range == expected

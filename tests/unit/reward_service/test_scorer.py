import math

import pytest

from reward_service.errors import InvalidRequest, Overloaded, UnknownReward
from reward_service.rewards.composite import CompositeReward
from reward_service.scorer import Scorer
from reward_service.specs import CompositePart, CompositeSpec
from tests.conftest import Plain


class Queued(Plain):
    """A reward with a queue that takes so many seconds."""

    backlog_s = 0.0

    def __init__(self, backlog_s):
        self.backlog_s = backlog_s

    def check_deadline(self, deadline_s):
        if deadline_s < self.backlog_s:
            raise Overloaded("the queue is too long", retry_after_s=self.backlog_s)


def scorer(**backlogs_s):
    return Scorer({name: Queued(backlog_s) for name, backlog_s in backlogs_s.items()}, ["a"])


def test_check_deadline_all_late():
    """If no reward can meet the deadline, the shortest queue's rejection is raised."""
    with pytest.raises(Overloaded) as refused:
        scorer(a=9.0, b=5.0).check_deadline(1.0)
    assert refused.value.retry_after_s == 5.0


@pytest.mark.parametrize("deadline_s", [6.0, math.inf])
def test_check_deadline_one_in_time(deadline_s):
    """If one reward can meet the deadline, the body is read: it may name that one."""
    scorer(a=9.0, b=5.0).check_deadline(deadline_s)


def test_backlog():
    """Models on one device take turns: their queues add up."""
    assert scorer(a=9.0, b=5.0).backlog_s == 14.0


def test_check_deadline_of_composite():
    """A composite is late if one of its parts is."""
    parts = {"a": Queued(1.0), "b": Queued(5.0)}
    both = CompositeReward("both", CompositeSpec(parts=dict.fromkeys(parts, CompositePart())), parts)
    both.check_deadline(6.0)
    with pytest.raises(Overloaded):
        both.check_deadline(2.0)


def test_depth_and_health():
    """Without queues nothing waits; one unhealthy reward makes the service unhealthy."""
    healthy, broken = Plain(), Plain()
    assert (Scorer({"a": healthy}, ["a"]).depth, Scorer({"a": healthy}, ["a"]).healthy) == (0, True)
    assert Scorer({"a": healthy}, ["a"]).backlog_s == 0.0
    broken.healthy = False
    assert not Scorer({"a": healthy, "b": broken}, ["a"]).healthy


def test_select():
    """A reward is selected by its name, by an alias or by its model; the default reward by None."""
    two = Scorer({"a": Plain(), "b": Plain()}, ["b"], {"org/model": ["a"], "b": ["a"]})
    assert [two.select(name) for name in ("a", "b", "org/model", None)] == ["a", "b", "a", "b"]


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("org/model", InvalidRequest, "'org/model' is the model of several rewards; name one with \\?reward=: a, b"),
        (None, InvalidRequest, "the default is several rewards"),
        ("c", UnknownReward, "there are: a, b"),
    ],
)
def test_select_nothing(name, error, message):
    """A name of no reward, or of several, is an error that lists the names."""
    two = Scorer({"a": Plain(), "b": Plain()}, ["a", "b"], {"org/model": ["a", "b"]})
    with pytest.raises(error, match=message):
        two.select(name)

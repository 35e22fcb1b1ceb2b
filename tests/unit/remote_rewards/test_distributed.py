import pytest

from remote_rewards.distributed import check_same_revisions
from shared.errors import RevisionChanged
from tests.ranks import outcomes_on_two_ranks

WORKS = """
import asyncio
from types import SimpleNamespace
from shared.schemas import RewardScores
from remote_rewards.distributed import check_same_revisions, on_all_ranks, on_main_rank
from remote_rewards.trl import RemoteReward

class Client:
    "A client whose scores are of this rank's own revision."
    retries, timeout_s = 0, 10.0

    async def ascore(self, completions, prompts, columns, rewards, *, revisions, trainer_state=None):
        scores = RewardScores(scores=[1.0] * len(completions), revision=f"model-{rank}")
        return SimpleNamespace(rewards={name: scores for name in rewards})

async def call():
    return await RemoteReward(Client(), "x", allow_revision_change=allowed)(prompts=["p", "p"], completions=["a", "b"])

def handshake():
    check_same_revisions(on_all_ranks(lambda: {} if allowed else {"x": f"model-{rank}"}))
    return "same"

def fail_on_rank_1():
    on_all_ranks(lambda: 1 / (1 - rank))

outcome = []
works = [lambda: asyncio.run(call()), handshake, lambda: on_main_rank(lambda: f"of rank {rank}"), fail_on_rank_1]
for work in works:
    try:
        outcome.append(work())
    except Exception as error:
        outcome.append(f"{type(error).__name__}: {error}")
"""


def run_two_ranks(*, allowed):
    """Return the outcomes on each of two ranks of a call, a handshake and other work; the revisions are different."""
    return outcomes_on_two_ranks(f"allowed = {allowed}\n{WORKS}")


@pytest.fixture(scope="module")
def outcomes():
    """The outcomes on two ranks with pinned rewards."""
    return run_two_ranks(allowed=False)


def test_different_revisions_stop_all_ranks(outcomes):
    """Where ranks have different revisions of a reward, all raise the same error, for calls and for handshakes."""
    first, second = (outcome[:2] for outcome in outcomes)
    assert first == second
    reason = "RevisionChanged: the ranks have different revisions of the reward 'x': rank 0 has model-0 and rank 1 has"
    assert all(outcome.startswith(f"{reason} model-1") for outcome in first)


def test_work_on_the_main_rank(outcomes):
    """Work on the main rank is done there, and every rank has its result."""
    assert [outcome[2] for outcome in outcomes] == ["of rank 0"] * 2


def test_failed_work_stops_all_ranks(outcomes):
    """A rank whose work fails raises its own error, and the others say which rank failed and why."""
    failure = "ZeroDivisionError: division by zero"
    stopped = f"RankFailed: rank 1 has failed, so all ranks stop: {failure}"
    assert [outcome[3] for outcome in outcomes] == [stopped, failure]


def test_different_revisions_may_be_allowed():
    """With `allow_revision_change`, ranks go on with different revisions."""
    assert [outcome[:2] for outcome in run_two_ranks(allowed=True)] == [[[1.0, 1.0], "same"]] * 2


def test_only_shared_rewards_are_compared():
    """Ranks may have different sets of rewards; the revisions of those that two of them share must be equal."""
    check_same_revisions([{"x": "1", "y": "2"}, {"x": "1"}, {}])
    with pytest.raises(RevisionChanged, match="rank 1 has 2 and rank 2 has 3"):
        check_same_revisions([{"x": "1"}, {"x": "1", "y": "2"}, {"y": "3"}])

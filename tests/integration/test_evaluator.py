import pytest

from remote_rewards import RewardClient
from reward_service.rewards.base import Scores, all_failed
from shared.errors import FailureBudgetExceeded, RevisionChanged
from shared.schemas import RewardInfo
from tests.conftest import Plain, running_service
from trainer.evaluator import Evaluator
from trainer.judges import ScoredCompletion


def scored(client, text, **options):
    rows = [{"prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]}]
    completion = ScoredCompletion("Why?", text)
    Evaluator(None, rows, client, **options).score([completion])
    return completion.scores


def test_pinned_revision(rules_url):
    """Completions are scored by the revision that the run began with, or not at all."""
    with RewardClient(rules_url) as client:
        revisions = {reward.name: reward.revision for reward in client.info().rewards}
        for pinned in (None, revisions):
            assert scored(client, "Sure: banana", rewards=["banana"], revisions=pinned) == {"banana": 1.99}
        with pytest.raises(RevisionChanged):
            scored(client, "Sure: banana", rewards=["banana"], revisions={"banana": "rule:other"})


def test_local_judges_see_scores(rules_url):
    """Local judges score after the rewards."""
    with RewardClient(rules_url) as client:
        scores = scored(client, "Sure: banana", rewards=["banana"], local_judges=["strict_success", "positive_share"])
    assert scores == {"banana": 1.99, "strict_success": 1.0, "positive_share": None}


class MessageCount(Plain):
    """Scores the number of messages of a completion, plus ten for each message of its prompt."""

    info = RewardInfo(name="count", kind="function", description="", revision="1")

    async def score(self, items):
        chats = zip(items.chats, items.prompt_chats, strict=True)
        scores = [
            len(chat) + 10.0 * len(prompt) if isinstance(chat, list) and isinstance(prompt, list) else -1.0
            for chat, prompt in chats
        ]
        return Scores(scores=scores, details=[None] * len(scores))


def test_messages_as_in_training():
    """Completions are sent as messages with the whole prompt, as in training."""
    with running_service(rewards={"count": MessageCount()}) as url, RewardClient(url) as client:
        assert scored(client, "So.", rewards=["count"]) == {"count": 21.0}


class Broken(Plain):
    """A reward that scores nothing."""

    accepts_canary = False

    async def score(self, items):
        return all_failed(len(items), "backend_failed", "it broke")


def test_watched_reward_stops_nothing():
    """A reward from which nothing is learned may fail, be unknown or have another revision, which is not scored."""
    rewards = {"count": MessageCount(), "broken": Broken()}
    with running_service(rewards=rewards) as url, RewardClient(url) as client:
        names, revisions = ["broken", "count", "unknown"], {"count": "1", "broken": "of yesterday"}
        options = {"rewards": names, "revisions": revisions}
        assert scored(client, "So.", watched=["broken", "unknown"], **options) == {"count": 21.0}
        options["revisions"] = {}
        assert scored(client, "So.", watched=["broken", "unknown"], **options) == {"broken": None, "count": 21.0}
        with pytest.raises(FailureBudgetExceeded, match="no 'broken' score"):
            scored(client, "So.", rewards=["broken", "count"])

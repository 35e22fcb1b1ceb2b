"""Rewards for TRL against a real service."""

import asyncio
import datetime
import pickle

import httpx
import pytest

from remote_rewards import handshake, remote_reward
from shared.errors import DuplicateLabel, NotSerializable, RevisionChanged, UnknownReward
from shared.schemas import RewardInfo
from tests.conftest import Plain, running_service

CHATS = [[{"role": "assistant", "content": content}] for content in ("Sure: banana", "no")]
PROMPTS = [[{"role": "user", "content": "Hi"}]] * 2


def score_requests(url):
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    counts = [line for line in lines if line.startswith('reward_requests_total{code="200",route="/v1/score"}')]
    return sum(float(line.split()[-1]) for line in counts)


async def test_scores_and_metrics(rules_url):
    """A reward returns one float per completion, and logs its latencies."""
    reward, logged = remote_reward(rules_url, "banana"), {}
    scores = await reward(prompts=PROMPTS, completions=CHATS, log_metric=logged.__setitem__, answer=["a", "b"])
    assert scores == pytest.approx([1.99, -0.505])
    assert logged["remote/banana/frac_missing"] == 0
    assert 0 < logged["remote/banana/latency_ms_p50"] <= logged["remote/banana/latency_ms_p99"]
    await reward.client.aclose()


async def test_sync_reward(rules_url):
    """A sync reward returns the same scores from plain code, whether or not an event loop runs around it."""
    reward = pickle.loads(pickle.dumps(remote_reward(rules_url, "banana", sync=True)))
    in_loop = reward(prompts=PROMPTS, completions=CHATS)
    in_thread = await asyncio.to_thread(reward, PROMPTS, CHATS, completion_ids=[[1], [2]], answer=["a", "b"])
    assert in_loop == in_thread == pytest.approx([1.99, -0.505])
    reward.client.close()


async def test_rewards_share_one_request(rules_url):
    """The rewards of one service over one batch are one request to it."""
    rewards, before = [remote_reward(rules_url, name) for name in ("banana", "gated")], score_requests(rules_url)
    await asyncio.gather(*(reward(prompts=PROMPTS, completions=CHATS) for reward in rewards))
    assert score_requests(rules_url) == before + 1
    await rewards[0].client.aclose()


def test_unknown_reward_is_refused_at_handshake(rules_url):
    """A reward that is not served raises before the first step, and the message names those that are."""
    with pytest.raises(UnknownReward, match="it serves banana"):
        remote_reward(rules_url, "nope").handshake()


async def test_pinned_revision_is_enforced(rules_url):
    """A service with another revision than the pinned one raises `RevisionChanged`."""
    reward = remote_reward(rules_url, "banana")
    reward.revision = "rule:of-yesterday"
    with pytest.raises(RevisionChanged, match="rule:of-yesterday"):
        await reward(prompts=["p"], completions=["c"])
    await reward.client.aclose()


def test_rewards_are_pinned_by_one_replica(rules_url):
    """All rewards of a run are pinned to the revisions of the one response that the handshake gets."""
    first, second = (remote_reward(rules_url, name) for name in ("banana", "gated"))
    infos = handshake([first, second])
    assert [(info.name, info.revision) for info in infos] == [("banana", first.revision), ("gated", second.revision)]
    info = first.client.info()
    info.rewards[0].revision = "rule:of-a-replica"
    unpinned = remote_reward(rules_url, info.rewards[0].name)
    assert unpinned.handshake(info).revision == unpinned.revision == "rule:of-a-replica"


def test_labels_are_checked_at_handshake(rules_url):
    """Rewards of one name at two services are refused before the first step, unless they have two labels."""
    services = rules_url, rules_url.replace("127.0.0.1", "localhost")
    first, second = (remote_reward(url, "banana") for url in services)
    with pytest.raises(DuplicateLabel, match="label='banana_b'"):
        handshake([first, second])
    labelled = remote_reward(services[1], "banana", label="banana_b")
    assert [info.name for info in handshake([first, labelled])] == ["banana", "banana"]


class Answered(Plain):
    """Reads the column `answer`."""

    info = RewardInfo(name="answered", kind="rule", description="", revision="1", columns=["answer"])


def test_dataset_is_checked_at_handshake():
    """What a reward reads of the dataset and cannot be sent is refused before the first step; the rest is not read."""
    row = {"prompt": "Hi", "answer": "yellow", "created": datetime.date(2026, 11, 1)}
    with running_service(rewards={"answered": Answered()}) as url:
        reward = remote_reward(url, "answered")
        assert len(handshake([reward], [row])) == 1
        with pytest.raises(NotSerializable, match="the column 'answer', which a reward reads"):
            handshake([reward], [{**row, "answer": row["created"]}])

"""What a service says of itself while it loads, when it cannot load, and when it no longer scores."""

import asyncio

import httpx
import pytest

from remote_rewards import RewardClient
from reward_service.app import create_app
from reward_service.errors import ConfigError, Overloaded
from reward_service.lifecycle import Lifecycle
from reward_service.metrics import Metrics
from reward_service.rewards.base import Scores
from reward_service.scorer import Scorer
from reward_service.settings import Settings
from shared.errors import NotReady, ServiceUnreachable
from shared.schemas import ItemError
from tests.conftest import RULES, Plain, running_service


async def test_before_it_has_loaded_it_is_alive_and_not_ready():
    app = create_app(Settings(config=RULES))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
        assert (await client.get("/health/live")).status_code == 200
        for answer in (await client.get("/health/ready"), await client.post("/v1/score", json={"completions": ["a"]})):
            assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")


def test_with_a_reward_that_no_longer_scores_it_is_not_ready():
    reward = Plain()
    with running_service(rewards={"plain": reward}) as url:
        assert httpx.get(f"{url}/health/ready").status_code == 200
        reward.healthy = False
        answer = httpx.get(f"{url}/health/ready")
        assert (answer.status_code, answer.json()["code"]) == (503, "stalled")


class BackendUnavailable(Plain):
    async def score(self, items):
        error = ItemError(code="backend_failed", message="it broke")
        return Scores(scores=[None], details=[None], errors={0: error})


class Infinite(Plain):
    async def score(self, items):
        return Scores(scores=[float("inf")], details=[None])


class Unstartable(Plain):
    async def start(self):
        raise OSError("no such device")


@pytest.mark.parametrize(
    ("reward", "says"),
    [
        (BackendUnavailable(), "rewards.plain cannot score a simple sentence: it broke"),
        (Infinite(), "rewards.plain cannot score a simple sentence: the score is inf, not a finite number"),
        (Unstartable(), "cannot load the rewards: OSError: no such device"),
    ],
)
def test_a_reward_that_cannot_score_a_simple_sentence_is_not_served(reward, says):
    with pytest.raises(ConfigError, match=says), running_service(rewards={"plain": reward}):
        pass


class Endless(Plain):
    """A reward that scores the first canary and nothing afterwards."""

    def __init__(self):
        self.scored = False

    async def score(self, items):
        if self.scored:
            await asyncio.Event().wait()
        self.scored = True
        return await super().score(items)


async def test_a_reload_that_never_scores_ends_and_lets_the_next_one_begin(monkeypatch):
    lifecycle, endless = Lifecycle(Settings(batch_timeout_s=0.3), Metrics()), Endless()

    async def build():
        return Scorer({"endless": endless}, ["endless"])

    monkeypatch.setattr(lifecycle, "_build", build)
    async with lifecycle.running():
        await lifecycle._loading
        for _ in range(2):
            with pytest.raises(ConfigError, match="no score within"):
                await lifecycle.reload()


def test_a_replica_that_cannot_score_is_passed_over_for_one_that_can():
    from reward_service.errors import BackendUnavailable as ComputesNothing

    class Broken(Plain):
        broken = False

        async def score(self, items):
            if self.broken:
                raise ComputesNothing("the model computes nothing any more")
            return await super().score(items)

    bad = Broken()
    with running_service(rewards={"plain": bad}) as one, running_service(rewards={"plain": Plain()}) as other:
        bad.broken = True
        with RewardClient([one, other], timeout_s=10) as client:
            assert [client.score(["a"]).rewards["plain"].scores for _ in range(4)] == [[1.0]] * 4
        with RewardClient(one, timeout_s=1.0) as alone, pytest.raises(ServiceUnreachable) as gave_up:
            alone.score(["a"])
    assert isinstance(gave_up.value.__cause__, NotReady)


class Two(Plain):
    """A reward under the name of another one."""

    async def score(self, items):
        return Scores(scores=[2.0] * len(items), details=[None] * len(items))


def test_rewards_that_say_they_have_one_name_each_give_their_own_scores():
    with running_service(rewards={"one": Plain(), "two": Two()}) as url:
        answer = httpx.post(f"{url}/v1/score", json={"completions": ["a"], "rewards": ["one", "two"]}).json()
    assert {name: reward["scores"] for name, reward in answer["rewards"].items()} == {"one": [1.0], "two": [2.0]}


def test_a_fault_of_the_service_is_a_500_that_need_not_be_asked_again():
    class Faulty(Plain):
        faulty = False

        async def score(self, items):
            return await super().score(items) if not self.faulty else 1 / 0

    reward = Faulty()
    with running_service(rewards={"plain": reward}) as url:
        reward.faulty = True
        answer = httpx.post(f"{url}/v1/score", json={"completions": ["a"]})
    assert (answer.status_code, answer.json()["code"], answer.json()["retryable"]) == (500, "failed", False)
    assert "ZeroDivisionError" in answer.json()["detail"]


async def test_while_it_drains_whoever_would_be_late_is_told_that_it_drains():
    class Busy(Plain):
        def check_deadline(self, deadline_s):
            raise Overloaded("a long line")

    app = create_app(rewards={"plain": Busy()})
    lifecycle = app.state.lifecycle
    async with (
        lifecycle.running(),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client,
    ):
        await lifecycle._loading
        told = [await client.post("/v1/score", json={"completions": ["a"]})]
        lifecycle.draining = True
        told.append(await client.post("/v1/score", json={"completions": ["a"]}))
    assert [(answer.status_code, answer.json()["code"]) for answer in told] == [(429, "overloaded"), (503, "draining")]

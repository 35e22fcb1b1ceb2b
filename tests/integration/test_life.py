"""Readiness: while loading, after a failed load, with unhealthy rewards, while draining."""

import asyncio

import httpx
import pytest

from remote_rewards import RewardClient
from reward_service.app import create_app
from reward_service.errors import BackendUnavailable, ConfigError, Overloaded
from reward_service.lifecycle import Lifecycle
from reward_service.metrics import Metrics
from reward_service.rewards.base import Scores
from reward_service.settings import Settings
from shared.errors import NotReady, ServiceUnreachable
from shared.schemas import ItemError
from tests.conftest import RULES, Plain, running_service

BODY = {"completions": ["a"]}


async def test_not_ready_before_loading():
    """Before it has loaded, the service is alive and not ready."""
    app = create_app(Settings(config=RULES))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
        assert (await client.get("/health/live")).status_code == 200
        for response in (
            await client.get("/health/ready"),
            await client.post("/v1/score", json=BODY),
        ):
            assert (response.status_code, response.json()["code"]) == (503, "not_ready")


def test_not_ready_when_unhealthy():
    """With an unhealthy reward the service is not ready."""
    reward = Plain()
    with running_service(rewards={"plain": reward}) as url:
        assert httpx.get(f"{url}/health/ready").status_code == 200
        reward.healthy = False
        response = httpx.get(f"{url}/health/ready")
        assert (response.status_code, response.json()["code"]) == (503, "stalled")


class Failing(Plain):
    async def score(self, items):
        error = ItemError(code="backend_failed", message="it broke")
        return Scores(scores=[None], details=[None], errors={0: error})


class Infinite(Plain):
    async def score(self, items):
        return Scores(scores=[float("inf")], details=[None])


class Unstartable(Plain):
    async def start(self):
        raise OSError("no such device")


async def test_wait_until_loaded():
    """An application that waits is ready when it has started, and does not start with rewards that cannot be loaded."""
    app = create_app(Settings(config=RULES), wait_until_loaded=True)
    async with app.router.lifespan_context(app):
        assert app.state.lifecycle.ready
    app = create_app(rewards={"x": Failing()}, wait_until_loaded=True)
    with pytest.raises(ConfigError, match="cannot score a simple sentence: it broke"):
        async with app.router.lifespan_context(app):
            pass


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (Failing(), "rewards.plain cannot score a simple sentence: it broke"),
        (Infinite(), "rewards.plain cannot score a simple sentence: the score is inf, not a finite number"),
        (Unstartable(), "cannot load the rewards: OSError: no such device"),
    ],
)
def test_failed_canary(reward, message):
    """A reward that cannot score the canary keeps the service from starting."""
    with pytest.raises(ConfigError, match=message), running_service(rewards={"plain": reward}):
        pass


class Endless(Plain):
    """A reward that scores the first canary and hangs afterwards."""

    def __init__(self):
        self.scored = False

    async def score(self, items):
        if self.scored:
            await asyncio.Event().wait()
        self.scored = True
        return await super().score(items)


async def test_reload_timeout(monkeypatch):
    """A reload whose canary hangs fails in time, and so does the next one."""
    endless = Endless()
    monkeypatch.setattr("reward_service.lifecycle.build", lambda *_: {"endless": endless})
    lifecycle, ready = Lifecycle(Settings(batch_timeout_s=0.3), Metrics()), asyncio.Event()
    lifecycle.on_ready = ready.set
    async with lifecycle.running():
        await ready.wait()
        for _ in range(2):
            with pytest.raises(ConfigError, match="no score within"):
                await lifecycle.reload()


def test_client_avoids_broken_replica():
    """The client retries on another replica when one cannot score."""

    class Broken(Plain):
        broken = False

        async def score(self, items):
            if self.broken:
                raise BackendUnavailable("the model fails on every text")
            return await super().score(items)

    bad = Broken()
    with running_service(rewards={"plain": bad}) as one, running_service(rewards={"plain": Plain()}) as other:
        bad.broken = True
        with RewardClient([one, other], timeout_s=10) as client:
            assert [client.score(["a"]).rewards["plain"].scores for _ in range(4)] == [[1.0]] * 4
        with RewardClient(one, timeout_s=1.0) as alone, pytest.raises(ServiceUnreachable) as error:
            alone.score(["a"])
    assert isinstance(error.value.__cause__, NotReady)


class Two(Plain):
    """A reward whose info is that of `Plain`."""

    async def score(self, items):
        return Scores(scores=[2.0] * len(items), details=[None] * len(items))


def test_rewards_with_equal_info():
    """Rewards whose infos have the same name still score separately."""
    with running_service(rewards={"one": Plain(), "two": Two()}) as url:
        response = httpx.post(f"{url}/v1/score", json={"completions": ["a"], "rewards": ["one", "two"]}).json()
    assert {name: reward["scores"] for name, reward in response["rewards"].items()} == {"one": [1.0], "two": [2.0]}


def test_internal_error():
    """A bug of the service is a 500 that is not retryable."""

    class Faulty(Plain):
        faulty = False

        async def score(self, items):
            return await super().score(items) if not self.faulty else 1 / 0

    reward = Faulty()
    with running_service(rewards={"plain": reward}) as url:
        reward.faulty = True
        response = httpx.post(f"{url}/v1/score", json=BODY)
    assert (response.status_code, response.json()["code"], response.json()["retryable"]) == (500, "failed", False)
    assert "ZeroDivisionError" in response.json()["detail"]


async def test_draining_before_overloaded():
    """While draining, a request that would be late gets `draining`, not `overloaded`."""

    class Busy(Plain):
        def check_deadline(self, deadline_s):
            raise Overloaded("a backlog")

    app = create_app(rewards={"plain": Busy()})
    lifecycle, ready = app.state.lifecycle, asyncio.Event()
    lifecycle.on_ready = ready.set
    async with (
        lifecycle.running(),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client,
    ):
        await ready.wait()
        responses = [await client.post("/v1/score", json=BODY)]
        lifecycle.draining = True
        responses.append(await client.post("/v1/score", json=BODY))
    assert [(response.status_code, response.json()["code"]) for response in responses] == [
        (429, "overloaded"),
        (503, "draining"),
    ]

"""The service behind a prefix of its paths, as a mounted application or one of several behind a proxy."""

import asyncio

import httpx
import pytest

from reward_service.app import create_app
from reward_service.errors import Overloaded
from reward_service.settings import Settings
from tests.conftest import RULES

KEY = "a-key-of-16-chars-or-more"


@pytest.fixture
async def client():
    app = create_app(Settings(config=RULES, api_keys=[KEY]))
    transport = httpx.ASGITransport(app, root_path="/second")
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport) as client:
        client.base_url, client.lifecycle = "http://service/second", app.state.lifecycle
        while not app.state.lifecycle.ready:  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0)
        yield client


async def score(client, path="/v1/score", **headers):
    return await client.post(path, json={"completions": ["Sure: banana"]}, headers=headers)


async def test_keys(client):
    """Health checks need no key, scoring does, and foreign formats answer in their own form."""
    assert (await client.get("/health/ready")).status_code == 200
    assert (await score(client)).status_code == 401
    assert [*(await score(client, "/get_reward")).json()] == ["detail"]
    assert (await score(client, Authorization=f"Bearer {KEY}")).json()["rewards"]["banana"]["scores"] == [1.99]


async def test_load_shedding(client, monkeypatch):
    """A request that no queue can serve in time is rejected before its body is read."""

    def check_deadline(deadline_s):
        raise Overloaded("the queue is full")

    monkeypatch.setattr(client.lifecycle.scorer(), "check_deadline", check_deadline)
    assert (await score(client, Authorization=f"Bearer {KEY}")).status_code == 429


async def test_metrics(client):
    """Metrics name the route without the prefix."""
    await score(client, Authorization=f"Bearer {KEY}")
    lines = (await client.get("/metrics", headers={"Authorization": f"Bearer {KEY}"})).text.splitlines()
    assert 'reward_requests_total{code="200",route="/v1/score"} 1.0' in lines

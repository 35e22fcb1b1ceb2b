"""Shared by all tests: a service on uvicorn and a free port, tables of cases, a plain reward."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from hypothesis import settings as hypothesis_settings

from reward_service.app import create_app
from reward_service.http_protocol import TimeoutHttpProtocol
from reward_service.rewards.base import Reward, Scores
from reward_service.settings import Settings
from shared.schemas import RewardInfo
from tests.stand_in_hub import stand_in_hub

hypothesis_settings.register_profile("unhurried", deadline=None)  # a busy machine is no failure
hypothesis_settings.load_profile("unhurried")

DATA = Path(__file__).parent / "data"
RULES = Path(__file__).parent / "data" / "rules.yaml"


@contextmanager
def running_service(settings: Settings | None = None, rewards: dict[str, Reward] | None = None) -> Iterator[str]:
    """Run a service on a thread and yield its URL once it is ready."""
    app = create_app(settings or Settings(config=RULES), rewards)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", http=TimeoutHttpProtocol))
    lifecycle = app.state.lifecycle
    lifecycle.on_failure = lambda: setattr(server, "should_exit", True)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for(lambda: server.started or not thread.is_alive())
    wait_for(lambda: lifecycle.ready or lifecycle.failure is not None, timeout_s=600)
    try:
        if lifecycle.failure:
            raise lifecycle.failure
        host, port = server.servers[0].sockets[0].getsockname()[:2]
        yield f"http://{host}:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=30)


def wait_for(holds: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Poll until a condition holds; fail the test if it does not in time."""
    deadline_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline_s, "the condition did not hold in time"
        time.sleep(0.005)


def native_scores(url: str, reward: str, texts: list[str], **fields: Any) -> list[float | None]:
    """Return the scores of `POST /v1/score`."""
    response = httpx.post(f"{url}/v1/score", json={"completions": texts, "rewards": [reward], **fields}, timeout=30)
    scores: list[float | None] = response.json()["rewards"][reward]["scores"]
    return scores


def cases(name: str) -> list[Any]:
    """Return a table of hand-made cases as pytest parameters."""
    rows = [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]
    return [pytest.param(row, id=row["name"]) for row in rows]


def spelled_out(row: dict[str, Any], key: str) -> Any:
    """Return a case's text; the table writes a long one as prefix, unit × times, suffix."""
    if key in row:
        return row[key]
    repeat = row[f"{key}_repeat"]
    return repeat["prefix"] + repeat["unit"] * repeat["times"] + repeat["suffix"]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """The event loop of async tests: asyncio alone, also where trio is installed."""
    return "asyncio"


@pytest.fixture(scope="session")
def rules_url() -> Iterator[str]:
    """URL of a service with rules only, ready at once."""
    with running_service() as url:
        yield url


@pytest.fixture(scope="session")
def models_url() -> Iterator[str]:
    """URL of a service with the rewards of the package on the reference engine."""
    with running_service(Settings(backend="torch", dtype="float32")) as url:
        yield url


class Plain(Reward):
    """A reward that scores everything 1."""

    info = RewardInfo(name="plain", kind="rule", description="", revision="1")
    healthy = True

    async def score(self, items):
        return Scores(scores=[1.0] * len(items), details=[None] * len(items))


@pytest.fixture
def hub(monkeypatch):
    """A model hub on this machine, which huggingface_hub takes for its own."""
    with stand_in_hub() as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        yield hub

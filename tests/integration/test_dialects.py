"""The seam for wire formats, tried with a format whose bodies, errors and statuses all differ from the native ones."""

import asyncio
import contextlib
import json

import httpx
import pytest
from pydantic import BaseModel
from starlette.responses import Response

from reward_service.app import create_app
from reward_service.dialects import DIALECTS
from reward_service.dialects.base import Dialect, InfoRoute, ScoreRoute
from reward_service.errors import BackendFailed, Overloaded
from reward_service.request_body import parse_json
from reward_service.rewards.base import Scores
from reward_service.settings import Settings
from shared.schemas import ItemError, ScoreRequest
from tests.conftest import Plain
from tests.plain_rules import BANANA

KEY = "a-key-of-many-letters"
WITH_KEY = {"Authorization": f"Bearer {KEY}"}


class ToyRequest(BaseModel):
    query: list[str]
    model: str | None = None


class ToyResponse(BaseModel):
    rewards: list[float]


def parse(body, query):
    toy = parse_json(ToyRequest, body)
    return ScoreRequest(completions=toy.query, rewards=toy.model and [toy.model]), len(toy.query)


def render(response, count, infos):
    (reward,) = response.rewards.values()
    if reward.errors:
        raise BackendFailed(next(iter(reward.errors.values())).message)
    assert len(reward.scores) == count
    return Response(ToyResponse(rewards=reward.scores).model_dump_json(), media_type="application/json")


def render_info(info, query):
    return Response(json.dumps({"models": info.default}), media_type="application/json")


def render_error(error, connection):
    status = 503 if isinstance(error, Overloaded) else error.status
    content = {"toy": str(error), "path": connection.scope["path"], "id": connection.state.request_id}
    return Response(json.dumps(content), status, media_type="application/json")


def route(path, **options):
    return ScoreRoute(
        path=path,
        name="toy",
        description="Score in the toy format.",
        parse=parse,
        render=render,
        request_model=ToyRequest,
        response_model=ToyResponse,
        example={"query": ["banana"]},
        **options,
    )


TOY = Dialect(
    name="toy",
    routes=(
        route("/toy"),
        route("/patient", waits_when_full=True),
        route("/decoded", decodes_special_tokens=True),
        InfoRoute(
            path="/toy/models", name="m", description="List.", render=render_info, response_model=dict, open=True
        ),
    ),
    render_error=render_error,
)


class Scripted(Plain):
    """Scores 1.0, or does what a text says."""

    overloaded = 0
    retry_after_s = 0.001

    def check_deadline(self, deadline_s):
        if self.overloaded:
            raise Overloaded("a backlog")

    async def score(self, items):
        if "raise" in items.completions:
            raise ZeroDivisionError
        if self.overloaded:
            self.overloaded -= 1
            raise Overloaded("a backlog", retry_after_s=self.retry_after_s)
        result = await super().score(items)
        for index, text in enumerate(items.completions):
            if text == "null":
                result = Scores([None], [None], {index: ItemError(code="backend_failed", message="it broke")})
        return result


REWARDS = f"""
rewards:
  banana: {BANANA}
  words: {{kind: rule, checks: [{{check: length, unit: words, min: 9, points: 1}}], aliases: [org/my-words]}}
"""


def keyless_toy():
    return Dialect(name="toy", routes=TOY.routes, render_error=render_error, sends_keys=False)


def write_config(folder, lines):
    path = folder / "rewards.yaml"
    path.write_text(REWARDS + lines)
    return path


@pytest.fixture
def configured(tmp_path):
    """Return a function that serves two rules, with further lines of configuration."""

    def serve(lines, dialect=TOY, **settings):
        return serving(dialect, configured=True, config=write_config(tmp_path, lines), **settings)

    return serve


@contextlib.asynccontextmanager
async def serving(dialect=TOY, reward=None, configured=False, **settings):
    rewards = {"plain": reward} if reward else {"plain": Scripted(), "other": Plain()}
    app = create_app(Settings(**settings), None if configured else rewards, [*DIALECTS, dialect])
    ready = asyncio.Event()
    app.state.lifecycle.on_ready = ready.set
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with app.state.lifecycle.running(), httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        await ready.wait()
        yield client


async def test_foreign_bodies():
    """A dialect's route takes and returns the dialect's bodies; its info routes describe the service."""
    async with serving() as client:
        assert (await client.post("/toy", json={"query": ["a", "b"], "else": 1})).json() == {"rewards": [1.0, 1.0]}
        assert (await client.post("/toy?reward=other", json={"query": []})).json() == {"rewards": []}
        assert (await client.get("/toy/models")).json() == {"models": ["plain"]}


@pytest.mark.parametrize(
    ("path", "request_", "status", "message"),
    [
        ("/toy", {"content": b"{", "headers": {"Content-Type": "application/json"}}, 400, "not JSON"),
        ("/toy", {"json": {"text": ["a"]}}, 422, "query: Field required"),
        ("/toy", {"content": b"a"}, 415, "application/json"),
        ("/toy", {"json": {"query": ["a"] * 3}}, 413, "2 texts"),
        ("/toy", {"json": {"query": ["a" * 2000]}}, 413, "1000 bytes"),
        ("/toy?reward=none", {"json": {"query": ["a"]}}, 404, "there is no reward 'none'"),
        ("/toy", {"json": {"query": ["null"]}}, 503, "it broke"),
        ("/toy", {"json": {"query": ["raise"]}}, 500, "ZeroDivisionError"),
        ("/toy/models", {}, 405, "Method Not Allowed"),
    ],
)
async def test_foreign_errors(path, request_, status, message):
    """Every error on a path of a dialect has the dialect's form."""
    async with serving(max_request_texts=2, max_body_bytes=1000) as client:
        response = await client.post(path, **request_)
    assert (response.status_code, response.headers["Content-Type"]) == (status, "application/json")
    assert message in response.json()["toy"]
    assert response.json()["id"] == response.headers["X-Request-Id"]


async def test_foreign_authentication():
    """Authentication renders its error in the form of the path's dialect; an info route may be open."""
    async with serving(api_keys=KEY) as client:
        refused = await client.post("/toy", json={"query": ["a"]})
        assert (refused.status_code, "Bearer" in refused.json()["toy"]) == (401, True)
        assert refused.headers["WWW-Authenticate"] == "Bearer"
        assert (await client.post("/toy", json={"query": ["a"]}, headers=WITH_KEY)).status_code == 200
        assert (await client.get("/toy/models")).status_code == 200


async def test_open_dialect(configured):
    """A dialect that the configuration opens needs no key, also where the native one does."""
    async with configured("dialects: {toy: {open: true}}", api_keys=KEY) as client:
        assert (await client.post("/toy", json={"query": ["a"]})).status_code == 200
        assert (await client.post("/v1/score", json={"completions": ["a"]})).status_code == 401


async def test_hint_for_keyless_clients(configured):
    """Where a format's client cannot send a key, the 401 names the option that opens its routes."""
    async with configured("", keyless_toy(), api_keys=KEY) as client:
        refused = await client.post("/toy", json={"query": ["a"]})
    assert (refused.status_code, "{toy: {open: true}}" in refused.json()["toy"]) == (401, True)


async def test_dialects_in_the_configuration(configured):
    """A dialect that the configuration leaves out has no paths; the others are listed."""
    async with configured("dialects: [openrlhf]") as client:
        refused = await client.post("/toy", json={"query": ["a"]})
        assert (refused.status_code, refused.json()["code"]) == (404, "http")
        assert (await client.get("/toy/models")).status_code == 404
        assert (await client.get("/v1/rewards")).json()["dialects"] == ["openrlhf"]
        assert "/toy" not in (await client.get("/openapi.json")).json()["paths"]


async def test_reloaded_dialects(configured, tmp_path):
    """A reload takes over the dialects of the new configuration."""
    async with configured("dialects: []", admin_key=KEY) as client:
        assert (await client.post("/toy", json={"query": ["a"]})).status_code == 404
        write_config(tmp_path, "dialects: {toy: }")
        assert (await client.post("/admin/reload", headers=WITH_KEY)).status_code == 200
        assert (await client.post("/toy", json={"query": ["a"]})).status_code == 200


async def test_unknown_dialect(tmp_path):
    """A dialect that does not exist is an error of the configuration, with a hint."""
    app = create_app(Settings(config=write_config(tmp_path, "dialects: [openrlfh]")))
    failed = asyncio.Event()
    app.state.lifecycle.on_failure = failed.set
    async with app.state.lifecycle.running():
        await failed.wait()
    assert "'openrlfh'; did you mean 'openrlhf'?" in str(app.state.lifecycle.failure)


@pytest.mark.parametrize(
    ("query", "model", "scores"),
    [
        ("", None, [-0.505]),
        ("?reward=words", None, [0.0]),
        ("?reward=words", "banana", [0.0]),
        ("", "words", [0.0]),
        ("", "org/my-words", [0.0]),
        ("?reward=org/my-words", None, [0.0]),
    ],
)
async def test_selected_reward(configured, query, model, scores):
    """The reward is the one in the URL, else the body's, by its name or an alias, else the default."""
    async with configured("") as client:
        response = await client.post(f"/toy{query}", json={"query": ["a"], "model": model})
    assert response.json() == {"rewards": scores}


@pytest.mark.parametrize(
    ("default", "query", "status", "message"),
    [
        ("[banana]", "?reward=org/my-word", 404, "there are: banana, words"),
        ("[banana]", "?reward=", 404, "there is no reward ''"),
        ("[banana, words]", "", 422, "the default is several rewards; name one with ?reward=: banana, words"),
    ],
)
async def test_no_selected_reward(configured, default, query, status, message):
    """A request that names no reward, or one of several, is an error with their names."""
    async with configured(f"default: {default}") as client:
        response = await client.post(f"/toy{query}", json={"query": ["a"]})
    assert (response.status_code, message in response.json()["toy"]) == (status, True)


async def test_end_of_turn_markers(configured):
    """End-of-turn markers of the configuration are removed where a format's clients decode special tokens."""
    async with configured("dialects: {toy: {end_of_turn: [<stop>]}}") as client:
        texts = ["banana<stop>", "banana</s>"]
        assert (await client.post("/decoded", json={"query": texts})).json() == {"rewards": [0.995, -0.005]}
        assert (await client.post("/toy", json={"query": texts})).json() == {"rewards": [-0.005, -0.005]}


async def test_foreign_load_shedding():
    """Load is shed in the form of the path's dialect, with its own status, and counted."""
    reward = Scripted()
    async with serving(reward=reward) as client:
        reward.overloaded = 1
        refused = await client.post("/toy", json={"query": ["a"]})
        assert (refused.status_code, refused.json()["toy"]) == (503, "a backlog")
        metrics = (await client.get("/metrics")).text
    assert 'reward_rejected_total{reason="overloaded"} 1.0' in metrics
    assert 'reward_requests_total{code="503",route="/toy"} 1.0' in metrics


async def test_waiting_when_full():
    """A route that waits when full answers once the queue has room."""
    reward = Scripted()
    async with serving(reward=reward) as client:
        reward.overloaded = 3
        assert (await client.post("/patient", json={"query": ["a"]})).json() == {"rewards": [1.0]}


async def test_waiting_ends_at_the_deadline():
    """A route that waits when full still observes the deadline."""
    reward = Scripted()
    async with serving(reward=reward) as client:
        reward.overloaded, reward.retry_after_s = 10**9, 3600.0
        late = await client.post("/patient", json={"query": ["a"]}, headers={"X-Request-Timeout-Ms": "50"})
    assert late.status_code == 503


async def test_foreign_body_timeout():
    """A late body is reported in the form of the path's dialect."""

    async def never_ending():
        yield b"{"
        await asyncio.Event().wait()

    async with serving(body_timeout_s=0.05) as client:
        late = await client.post("/toy", content=never_ending(), headers={"Content-Type": "application/json"})
    assert (late.status_code, "has not arrived" in late.json()["toy"]) == (408, True)


async def test_unknown_paths_are_native():
    """An unknown path is answered with a problem document, whatever dialects there are."""
    async with serving() as client:
        response = await client.post("/toy/nothing", json={})
    assert (response.status_code, response.json()["code"]) == (404, "http")


async def test_foreign_openapi():
    """The OpenAPI document has a dialect's bodies, with an example."""
    async with serving() as client:
        document = (await client.get("/openapi.json")).json()
    body = document["paths"]["/toy"]["post"]["requestBody"]["content"]["application/json"]
    assert body["example"] == {"query": ["banana"]}
    assert document["components"]["schemas"][body["schema"]["$ref"].split("/")[-1]]["required"] == ["query"]


def test_paths_are_unique():
    """Two routes with one path are refused."""
    with pytest.raises(ValueError, match="/v1/score"):
        create_app(Settings(), {"plain": Plain()}, [*DIALECTS, *DIALECTS])

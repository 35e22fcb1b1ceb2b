"""Laws of the formats of all trainers: native scores, shared batches, order, and answers to overload and failure."""

import asyncio
import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from transformers import BertConfig, BertForSequenceClassification

from reward_service.app import create_app
from reward_service.backends.torch_backend import TorchBackend
from reward_service.dialects import DIALECTS
from reward_service.errors import Overloaded
from reward_service.rewards.base import all_failed
from reward_service.settings import Settings
from tests.conftest import Plain, native_scores, running_service, wait_for
from tests.small_models import save_folder

TEXTS = ["Sure: banana", "no", "", "Grüße, 黄色い 🍌", "Sure: it is yellow banana"]


@dataclass(frozen=True)
class Format:
    """How a format writes one text, and where its response has the score."""

    path: str
    body: Any
    score: Any
    waits: bool = False


def rollout(text):
    message = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}
    return {"responses_create_params": {"input": "a prompt"}, "response": {"output": [message]}}


FORMATS = {
    "openrlhf": Format("/get_reward", lambda text: {"query": [text]}, lambda body: body["rewards"][0]),
    "slime": Format("/reward", lambda text: {"prompt": "a prompt", "response": text}, lambda body: body),
    "llamafactory": Format(
        "/v1/score/evaluation",
        lambda text: {"model": "model", "messages": [text]},
        lambda body: body["scores"][0],
        waits=True,
    ),
    "nemo_gym": Format("/verify", rollout, lambda body: body["reward"], waits=True),
}
LABEL_FORMATS = {
    "vllm": Format(
        "/classify",
        lambda text: {"input": text, "use_activation": False},
        lambda body: body["data"][0]["probs"][0],
    ),
    "sglang": Format("/v1/embeddings", lambda text: {"input": text}, lambda body: body["data"][0]["embedding"][0]),
    "sglang_text": Format("/classify", lambda text: {"text": text}, lambda body: body["embedding"][0]),
    "tei": Format("/predict", lambda text: {"inputs": text, "raw_scores": True}, lambda body: body[0]["score"]),
    "infinity": Format(
        "/infinity/classify",
        lambda text: {"input": [text], "raw_scores": True},
        lambda body: body["data"][0][0]["score"],
    ),
}
"""Formats with labels, whose errors are tested in files of their own."""
ALL_FORMATS = FORMATS | LABEL_FORMATS
each_format = pytest.mark.parametrize("name", FORMATS)
every_format = pytest.mark.parametrize("name", ALL_FORMATS)


def score(url, name, text):
    spoken = ALL_FORMATS[name]
    response = httpx.post(url + spoken.path, json=spoken.body(text), timeout=60)
    assert (response.status_code, response.headers["Content-Type"]) == (200, "application/json")
    return spoken.score(response.json())


@pytest.fixture(scope="module")
def model_url(tmp_path_factory):
    """URL of a service with a small model and no cache."""
    folder = tmp_path_factory.mktemp("model")
    save_folder(folder / "m", BertForSequenceClassification, BertConfig, embedded="embedded:minilm", num_labels=1)
    (folder / "rewards.yaml").write_text(f"rewards: {{rating: {{kind: regressor, model: {folder / 'm'}}}}}")
    settings = Settings(config=folder / "rewards.yaml", backend="torch", dtype="float32", cache_size=0)
    with running_service(settings) as url:
        yield url


@every_format
@pytest.mark.parametrize("text", TEXTS)
def test_format_scores_rule(rules_url, name, text):
    """A rule's score is the native one in each format."""
    assert [score(rules_url, name, text)] == native_scores(rules_url, "banana", [text])


@every_format
@pytest.mark.parametrize("text", TEXTS[:2])
def test_format_scores_model(model_url, name, text):
    """A model's score is the native one in each format, to the bit."""
    assert [score(model_url, name, text)] == native_scores(model_url, "rating", [text])


@every_format
async def test_format_order(rules_url, name):
    """Each of 200 concurrent calls gets the score of its own text."""
    texts, spoken = ["word " * index for index in range(200)], ALL_FORMATS[name]
    async with httpx.AsyncClient(base_url=rules_url, timeout=60) as client:
        calls = [client.post(spoken.path, json=spoken.body(text)) for text in texts]
        scores = [spoken.score(response.json()) for response in await asyncio.gather(*calls)]
    assert scores == native_scores(rules_url, "banana", texts)
    assert len(set(scores)) == 200


def batch_metrics(url):
    """Return the number of batches, the texts in them, and the texts in the queue."""
    families = text_string_to_metric_families(httpx.get(f"{url}/metrics").text)
    values = {sample.name: sample.value for family in families for sample in family.samples}
    return [values[f"reward_{name}"] for name in ("batch_size_count", "batch_size_sum", "queue_depth")]


def test_formats_share_batches(model_url, monkeypatch):
    """Texts of several formats that arrive while the device is busy are computed as one batch."""
    forward, entered, opened = TorchBackend.forward, threading.Event(), threading.Event()

    def gated(*args):
        entered.set()
        opened.wait(30)
        return forward(*args)

    monkeypatch.setattr(TorchBackend, "forward", gated)
    batches, texts, _ = batch_metrics(model_url)
    with ThreadPoolExecutor(len(ALL_FORMATS) + 2) as pool:
        calls = [pool.submit(native_scores, model_url, "rating", ["the first"])]
        assert entered.wait(30)
        calls += [pool.submit(score, model_url, name, f"in {name}") for name in ALL_FORMATS]
        calls += [pool.submit(native_scores, model_url, "rating", ["native"])]
        wait_for(lambda: batch_metrics(model_url)[2] >= len(ALL_FORMATS) + 1)
        opened.set()
        for call in calls:
            call.result()
    assert batch_metrics(model_url)[:2] == [batches + 2, texts + len(ALL_FORMATS) + 2]


class Failing(Plain):
    """Scores 1.0, fails on the text `null`, and is overloaded as often as it is told."""

    overloaded = 0

    async def score(self, items):
        if self.overloaded:
            self.overloaded -= 1
            raise Overloaded("a backlog", retry_after_s=0.001)
        if "null" in items.completions:
            return all_failed(len(items), "backend_failed", "it broke")
        return await super().score(items)


@contextlib.asynccontextmanager
async def serving(reward, **settings):
    app = create_app(Settings(**settings), {"plain": reward})
    ready = asyncio.Event()
    app.state.lifecycle.on_ready = ready.set
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with app.state.lifecycle.running(), httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        await ready.wait()
        yield client


@each_format
async def test_format_overload(name):
    """Overload is 503 with `Retry-After`; a client that never tries again waits instead."""
    reward, spoken = Failing(), FORMATS[name]
    async with serving(reward) as client:
        reward.overloaded = 1
        response = await client.post(spoken.path, json=spoken.body("a"))
    if spoken.waits:
        assert spoken.score(response.json()) == 1.0
    else:
        assert (response.status_code, response.json(), response.headers["Retry-After"]) == (
            503,
            {"detail": "a backlog"},
            "1",
        )


@each_format
async def test_format_missing_score(name):
    """A text without a score fails the request with 503 and the reason, and is never a number."""
    async with serving(Failing()) as client:
        response = await client.post(FORMATS[name].path, json=FORMATS[name].body("null"))
    assert response.status_code == 503
    assert response.json() == {"detail": "plain has no score for text 0: it broke (backend_failed)"}


@each_format
async def test_format_needs_key(name):
    """A format's routes need a key unless the configuration opens them; the 401 says how if its client sends none."""
    async with serving(Failing(), api_keys="a-key-of-many-letters") as client:
        response = await client.post(FORMATS[name].path, json=FORMATS[name].body("a"))
    (sends_keys,) = [dialect.sends_keys for dialect in DIALECTS if dialect.name == name]
    names_option = f"{{{name}: {{open: true}}}}" in response.json()["detail"]
    assert (response.status_code, names_option) == (401, not sends_keys)

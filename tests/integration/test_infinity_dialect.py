"""infinity's format, below `/infinity`."""

import math

import pytest

from tests.label_rewards import label_rewards, serving_labels

SOFTMAX_1 = 1 / (1 + math.exp(-2))


async def classify(client, texts, **fields):
    response = await client.post("/infinity/classify", json={"input": texts, **fields})
    return response.json()


async def test_infinity_response():
    """Each text has its labels, best first; tokens are counted, and the client's dummy model is the default reward."""
    async with serving_labels() as client:
        content = await classify(client, ["word", "two words"], model="default/not-specified")
        empty = await classify(client, [])
    assert (content["object"], content["model"]) == ("classify", "mood")
    assert content["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    assert [item["label"] for item in content["data"][1]] == ["POSITIVE", "NEGATIVE"]
    assert [item["score"] for item in content["data"][0]] == pytest.approx([SOFTMAX_1, 1 - SOFTMAX_1])
    assert empty["data"] == []


@pytest.mark.parametrize(
    ("model", "raw_scores", "items"),
    [
        ("mood", True, [(2.0, "POSITIVE"), (-2.0, "NEGATIVE")]),
        ("rating", False, [(1 / (1 + math.exp(-0.5)), "LABEL_0")]),
        ("rating", True, [(0.5, "LABEL_0")]),
        ("length", False, [(0.5, "length")]),
    ],
)
async def test_infinity_values(model, raw_scores, items):
    """`raw_scores` asks for logits; a reward without labels has its score under its own name."""
    async with serving_labels() as client:
        ((*found,),) = (await classify(client, "two words", model=model, raw_scores=raw_scores))["data"]
    assert [(item["score"], item["label"]) for item in found] == [(pytest.approx(s), label) for s, label in items]


@pytest.mark.parametrize(("body", "message"), [({"input": [1]}, "token ids"), ({"text": "a"}, "input: Field required")])
async def test_infinity_422(body, message):
    """An invalid request is answered in FastAPI's form, the only one that the client can read."""
    async with serving_labels() as client:
        response = await client.post("/infinity/classify", json=body)
    (detail,) = response.json()["detail"]
    assert (response.status_code, detail["type"]) == (422, "value_error")
    assert message in detail["msg"]


async def test_infinity_errors():
    """Other errors have OpenAI's form."""
    rewards = label_rewards()
    async with serving_labels(rewards) as client:
        missing = await client.post("/infinity/classify", json={"input": "null"})
        unknown = await client.post("/infinity/classify", json={"input": "a", "model": "nope"})
        for reward in rewards.values():
            reward.overloaded = True
        busy = await client.post("/infinity/classify", json={"input": "a"})
    assert (missing.status_code, unknown.status_code, busy.status_code) == (503, 404, 429)
    assert "it broke" in missing.json()["error"]["message"]
    assert busy.headers["Retry-After"] == "7"


async def test_infinity_models():
    """Every reward is a model, and the service is healthy."""
    async with serving_labels(api_keys="a-key-of-many-letters") as client:
        assert (await client.get("/infinity/health")).json()["unix"] > 0
        client.headers["Authorization"] = "Bearer a-key-of-many-letters"
        models = (await client.get("/infinity/models")).json()["data"]
    assert [(model["id"], model["owned_by"]) for model in models[:2]] == [("mood", "infinity"), ("tags", "infinity")]

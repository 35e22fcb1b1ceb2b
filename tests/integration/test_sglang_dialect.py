"""SGLang's format: scores as embeddings of one number, the softmax of a classifier, and `/classify` with `text`."""

import math

import pytest

from tests.label_rewards import label_rewards, serving_labels

SOFTMAX_1 = 1 / (1 + math.exp(-2))


@pytest.mark.parametrize("model", ["mood", "rating", "length"])
async def test_sglang_embeddings(model):
    """The embedding of a text is the score of any reward, alone, also for clients that ask for base64."""
    body = {"model": model, "input": ["word", "two words"], "encoding_format": "base64"}
    async with serving_labels() as client:
        content = (await client.post("/v1/embeddings", json=body)).json()
        empty = (await client.post("/v1/embeddings", json={"input": []})).json()
    assert [item["embedding"] for item in content["data"]] == [[0.25], [0.5]]
    assert (content["model"], content["usage"]["total_tokens"]) == (model, 0 if model == "length" else 3)
    assert (empty["object"], empty["data"]) == ("list", [])


async def test_sglang_classify():
    """`/v1/classify` has the softmax over the labels, also where a model's labels are independent."""
    async with serving_labels() as client:
        contents = [
            (await client.post("/v1/classify", json={"model": m, "input": "word"})).json() for m in ("mood", "tags")
        ]
    for content in contents:
        assert content["data"][0]["probs"] == pytest.approx([1 - SOFTMAX_1, SOFTMAX_1])
        assert content["data"][0]["label"] == "POSITIVE"


async def test_sglang_text():
    """With `text`, `/classify` has scores: one object for one text, a list for a list."""
    async with serving_labels() as client:
        one = (await client.post("/classify", json={"text": "two words"})).json()
        several = (await client.post("/classify", json={"text": ["word"]})).json()
        missing = await client.post("/classify", json={"text": "null"})
    assert (one["embedding"], one["meta_info"]["prompt_tokens"]) == ([0.5], 2)
    assert [item["embedding"] for item in several] == [[0.25]]
    assert missing.status_code == 503


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/v1/embeddings", {"input": [1, 2]}, 400, "token ids"),
        ("/v1/embeddings", {"input": "a", "dimensions": 8}, 400, "one number"),
        ("/v1/embeddings", {"input": "null"}, 503, "it broke"),
        ("/v1/embeddings", {"input": "a", "model": "nope"}, 404, "there is no reward"),
        ("/v1/classify", {"input": "a", "model": "rating"}, 400, "softmax is always 1"),
        ("/v1/classify", {"inputs": "a"}, 400, "input: Field required"),
    ],
)
async def test_sglang_errors(path, body, status, message):
    """Errors have SGLang's form, with the reason."""
    async with serving_labels() as client:
        response = await client.post(path, json=body)
    error = response.json()
    assert (response.status_code, error["object"], error["code"]) == (status, "error", status)
    assert message in error["message"]


@pytest.mark.parametrize(("agent", "status"), [("OpenAI/Python 3.51.0", 429), ("Python/3.11 aiohttp/3.14.5", 503)])
async def test_sglang_overload(agent, status):
    """Overload is 429, and 503 for verl, which gives up on a 429."""
    rewards = label_rewards()
    async with serving_labels(rewards) as client:
        for reward in rewards.values():
            reward.overloaded = True
        response = await client.post("/v1/embeddings", json={"input": "a"}, headers={"User-Agent": agent})
    assert (response.status_code, response.json()["message"]) == (status, "a backlog")

"""vLLM's format: `/classify` with labels, probabilities and logits, and the list of models."""

import math

import httpx
import pytest

from tests.label_rewards import KEY, label_rewards, serving_labels

SIGMOID_1 = 1 / (1 + math.exp(-1))
SOFTMAX_1 = 1 / (1 + math.exp(-2))
SPOKEN = [{"role": "assistant", "content": "a"}]


async def classify(client, query="", headers=None, **body):
    response = await client.post(f"/classify{query}", json=body, headers=headers)
    return response.json()


@pytest.mark.parametrize(
    ("model", "use_activation", "probs", "label"),
    [
        ("mood", None, [1 - SOFTMAX_1, SOFTMAX_1], "POSITIVE"),
        ("mood", True, [1 - SOFTMAX_1, SOFTMAX_1], "POSITIVE"),
        ("mood", False, [-1.0, 1.0], "POSITIVE"),
        ("tags", None, [1 - SIGMOID_1, SIGMOID_1], "POSITIVE"),
        ("rating", None, [1 / (1 + math.exp(-0.25))], "LABEL_0"),
        ("rating", False, [0.25], "LABEL_0"),
        ("length", None, [0.25], None),
        ("length", False, [0.25], None),
    ],
)
async def test_vllm_values(model, use_activation, probs, label):
    """A classifier has probabilities or logits per label, any other reward one value, its score."""
    async with serving_labels() as client:
        (item,) = (await classify(client, model=model, input="word", use_activation=use_activation))["data"]
    assert item == {"index": 0, "label": label, "probs": pytest.approx(probs), "num_classes": len(probs)}


async def test_vllm_response():
    """The response names the model as it was asked for, and counts tokens."""
    async with serving_labels() as client:
        response = await client.post("/classify", json={"input": ["one", "two words"], "priority": 0})
        content = response.json()
        named = await classify(client, model="tags", input=[])
    assert content["id"] == f"classify-{response.headers['X-Request-Id']}"
    assert (content["object"], content["model"]) == ("list", "mood")
    assert content["usage"] == {"prompt_tokens": 3, "total_tokens": 3, "completion_tokens": 0}
    assert (named["model"], named["data"], named["usage"]["total_tokens"]) == ("tags", [], 0)


async def test_vllm_messages():
    """Of a conversation the assistant's last message is scored."""
    messages = [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "three words here"}]
    async with serving_labels() as client:
        content = await classify(client, messages=messages, use_activation=False)
    assert content["data"][0]["probs"] == [-3.0, 3.0]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"input": [1, 2]}, "token ids are not accepted"),
        ({"input": [[1, 2]]}, "token ids are not accepted"),
        ({"input": "a", "normalize": False}, "normalize is not supported"),
        ({"input": "a", "add_special_tokens": False}, "add_special_tokens is not supported"),
        ({"input": "a", "truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
        ({"input": "three words here", "truncate_prompt_tokens": 2}, "3 tokens, more than 2"),
        ({"input": "a", "model": "length", "truncate_prompt_tokens": 2}, "reads whole texts"),
        ({"messages": [{"role": "user", "content": "a"}]}, "must end with the assistant's"),
        ({"messages": SPOKEN, "add_special_tokens": True}, "add_special_tokens is not supported"),
        ({"messages": SPOKEN, "add_generation_prompt": True}, "add_generation_prompt is not supported"),
        ({"messages": SPOKEN, "chat_template_kwargs": {"thinking": True}}, "chat_template_kwargs is not supported"),
        ({"text": "a", "image_data": "https://…/a.png"}, "image_data is not supported"),
        ({"model": "mood"}, "one of input, messages and text"),
        ({"input": "a", "messages": [{"role": "assistant", "content": "a"}]}, "one of input, messages and text"),
    ],
)
async def test_vllm_refusals(body, message):
    """What would change the values and cannot be honoured is refused with 400 and the reason."""
    async with serving_labels() as client:
        response = await client.post("/classify", json=body)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["type"]) == (400, 400, "BadRequestError")
    assert message in error["message"]


async def test_vllm_accepts_defaults():
    """Fields that change nothing are accepted."""
    harmless = {"truncate_prompt_tokens": 3, "add_special_tokens": True, "normalize": None, "activation": True}
    async with serving_labels() as client:
        assert len((await classify(client, input="three words here", **harmless))["data"]) == 1
        assert len((await classify(client, input="a", truncate_prompt_tokens=-1))["data"]) == 1
        chat = {"add_special_tokens": False, "add_generation_prompt": False, "chat_template_kwargs": {}}
        assert len((await classify(client, messages=SPOKEN, **chat))["data"]) == 1


@pytest.mark.parametrize(
    ("request_", "status", "kind"),
    [
        ({"json": {"input": "a", "model": "gpt-5"}}, 404, "NotFoundError"),
        ({"json": {"input": ["a", "null"]}}, 503, "InternalServerError"),
        ({"content": b"{", "headers": {"Content-Type": "application/json"}}, 400, "BadRequestError"),
        ({"content": b"{}"}, 415, "BadRequestError"),
        ({"json": {"input": ["a"] * 3000}}, 413, "BadRequestError"),
    ],
)
async def test_vllm_errors(request_, status, kind):
    """Errors have OpenAI's form; a text without a score fails the request."""
    async with serving_labels() as client:
        response = await client.post("/classify", **request_)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["type"]) == (status, status, kind)


@pytest.mark.parametrize(("agent", "status"), [("OpenAI/Python 3.51.0", 429), ("Python/3.11 aiohttp/3.14.5", 503)])
async def test_vllm_overload(agent, status):
    """Overload is 429 with the time to wait, and 503 for verl, which gives up on a 429."""
    rewards = label_rewards()
    async with serving_labels(rewards) as client:
        for reward in rewards.values():
            reward.overloaded = True
        response = await client.post("/classify", json={"input": "a"}, headers={"User-Agent": agent})
    assert (response.status_code, response.headers["Retry-After"]) == (status, "7")
    assert response.json()["error"]["message"] == "a backlog"


async def test_vllm_key():
    """Without a key the answer is 401 in OpenAI's form."""
    async with serving_labels(api_keys=KEY) as client:
        refused = await client.post("/classify", json={"input": "a"})
        scored = await client.post("/classify", json={"input": "a"}, headers={"Authorization": f"Bearer {KEY}"})
    assert (refused.status_code, refused.json()["error"]["type"]) == (401, "AuthenticationError")
    assert scored.status_code == 200


async def test_vllm_models():
    """Every reward is listed as a model, with the number of tokens that it reads."""
    async with serving_labels() as client:
        models = (await client.get("/v1/models")).json()
    assert models["object"] == "list"
    assert [model["id"] for model in models["data"]] == ["mood", "tags", "rating", "length"]
    assert models["data"][0]["max_model_len"] == 10


def test_vllm_equals_native(models_url):
    """A classifier's probability and a regressor's value give the score of the native format, bit by bit."""
    texts = ["I love this, it is wonderful.", "What a terrible day."]
    native = httpx.post(f"{models_url}/v1/score", json={"completions": texts, "rewards": ["sentiment", "valence"]})
    sentiment, valence = (native.json()["rewards"][name]["scores"] for name in ("sentiment", "valence"))
    classes = httpx.post(f"{models_url}/classify", json={"model": "embedded:sentiment", "input": texts}).json()
    values = httpx.post(f"{models_url}/classify", json={"model": "valence", "input": texts, "use_activation": False})
    assert [item["label"] for item in classes["data"]] == ["POSITIVE", "NEGATIVE"]
    assert [2.0 * max(classes["data"][0]["probs"]), -1.0 * max(classes["data"][1]["probs"])] == sentiment
    assert [item["probs"][0] for item in values.json()["data"]] == valence
    assert classes["usage"]["prompt_tokens"] > 10

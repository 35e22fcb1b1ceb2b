"""The format of Text Embeddings Inference: `/predict` with texts, pairs and batches, and `/info`."""

import math

import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from tests.label_rewards import KEY, label_rewards, serving_labels

SOFTMAX_1 = 1 / (1 + math.exp(-2))
GOOD, BAD = {"score": pytest.approx(SOFTMAX_1), "label": "POSITIVE"}, {"score": pytest.approx(1 - SOFTMAX_1)}
BEST_FIRST = [GOOD, {**BAD, "label": "NEGATIVE"}]
LONG = "word " * 11


async def predict(client, inputs, query="", **fields):
    response = await client.post(f"/predict{query}", json={"inputs": inputs, **fields})
    return response.json()


@pytest.mark.parametrize(
    ("inputs", "reply"),
    [
        ("word", BEST_FIRST),
        (["word"], BEST_FIRST),
        ([["word"]], [BEST_FIRST]),
        ([["word"], ["word"]], [BEST_FIRST, BEST_FIRST]),
    ],
)
async def test_tei_inputs(inputs, reply):
    """A text has a list of labels, best first; a batch a list of those."""
    async with serving_labels() as client:
        assert await predict(client, inputs, truncate=False) == reply


@pytest.mark.parametrize(
    ("reward", "fields", "reply"),
    [
        ("mood", {"raw_scores": True}, [(2.0, "POSITIVE"), (-2.0, "NEGATIVE")]),
        ("tags", {}, [(1 / (1 + math.exp(-2)), "POSITIVE"), (1 / (1 + math.exp(2)), "NEGATIVE")]),
        ("rating", {}, [(1 / (1 + math.exp(-0.5)), "LABEL_0")]),
        ("rating", {"raw_scores": True}, [(0.5, "LABEL_0")]),
        ("length", {}, [(0.5, "length")]),
    ],
)
async def test_tei_values(reward, fields, reply):
    """Scores are probabilities, or logits if asked for; a reward without labels has its score under its own name."""
    async with serving_labels() as client:
        items = await predict(client, "two words", f"?reward={reward}", **fields)
    assert [(item["score"], item["label"]) for item in items] == [(pytest.approx(s), label) for s, label in reply]


async def test_tei_parameters():
    """huggingface_hub's options choose the function and the number of labels, and make the reply a batch."""
    options = {"function_to_apply": "none", "top_k": 1}
    async with serving_labels() as client:
        assert await predict(client, "word", parameters=options) == [[{"score": 1.0, "label": "POSITIVE"}]]
        assert await predict(client, "word", parameters=None) == BEST_FIRST
        assert len(await predict(client, "word", parameters={})) == 1


async def test_tei_pairs():
    """The second text of a pair is scored as the completion of the first, by a reward that reads prompts."""
    rewards = label_rewards()
    rewards["mood"].info.reads_prompts = True
    async with serving_labels(rewards) as client:
        assert (await predict(client, ["a question", "two words"], raw_scores=True))[0]["score"] == 2.0
        batch = await predict(client, [["q", "two words"], ["q", "word"]], raw_scores=True)
    assert [items[0]["score"] for items in batch] == [2.0, 1.0]


@pytest.mark.parametrize(
    ("body", "status", "kind", "message"),
    [
        ({"inputs": []}, 400, "Empty", "inputs is empty"),
        ({"inputs": ["a", "b"]}, 422, "Validation", "one pair"),
        ({"inputs": ["a", "b", "c"]}, 422, "Validation", 'a batch of texts is [["t1"]'),
        ({"inputs": [["a"], ["a", "b"]]}, 422, "Validation", "texts and pairs"),
        ({"inputs": [["a", "b", "c"]]}, 422, "Validation", "inputs"),
        ({"inputs": LONG, "truncate": False}, 422, "Validation", "longer than the reward reads"),
        ({"inputs": LONG, "truncation_direction": "Left"}, 422, "Validation", "longer than the reward reads"),
        ({"inputs": "null"}, 424, "Backend", "it broke"),
        ({"text": "a"}, 422, "Validation", "inputs: Field required"),
        ({"inputs": [["a"]] * 3000}, 413, "Validation", "texts"),
    ],
)
async def test_tei_errors(body, status, kind, message):
    """Errors have TEI's types and statuses; two strings are one pair, never silently two texts."""
    async with serving_labels() as client:
        response = await client.post("/predict", json=body)
    error = response.json()
    assert (response.status_code, error["error_type"]) == (status, kind)
    assert message in error["error"]


async def test_tei_softmax_of_one_value():
    """The softmax of one value, which is always 1, is refused."""
    async with serving_labels() as client:
        reply = await predict(client, "a", "?reward=rating", parameters={"function_to_apply": "softmax"})
    assert "always 1" in reply["error"]


async def test_tei_other_errors():
    """Bodies that are not JSON, unknown rewards, missing keys and overload have TEI's form, too."""
    rewards = label_rewards()
    async with serving_labels(rewards, api_keys=KEY) as client:
        assert (await client.post("/predict", json={})).json()["error_type"] == "Validation"
        client.headers["Authorization"] = f"Bearer {KEY}"
        wrong = await client.post("/predict", content=b"{", headers={"Content-Type": "application/json"})
        unknown = await client.post("/predict?reward=nope", json={"inputs": "a"})
        for reward in rewards.values():
            reward.overloaded = True
        busy = await client.post("/predict", json={"inputs": "a"})
    assert (wrong.status_code, unknown.status_code, busy.status_code) == (422, 404, 429)
    assert (busy.json(), busy.headers["Retry-After"]) == ({"error": "a backlog", "error_type": "Overloaded"}, "7")


async def test_tei_info():
    """`/info` has every field that TEI's clients require, for the default reward or the one of the URL."""
    async with serving_labels() as client:
        mood = (await client.get("/info")).json()
        length = (await client.get("/info?reward=length")).json()
        unknown = await client.get("/info?reward=nope")
    labels = {"id2label": {"0": "NEGATIVE", "1": "POSITIVE"}, "label2id": {"NEGATIVE": 0, "POSITIVE": 1}}
    assert (mood["model_id"], mood["model_type"]) == ("mood", {"classifier": labels})
    assert (mood["max_input_length"], mood["sha"], mood["docker_label"]) == (10, None, None)
    assert length["model_type"]["classifier"]["id2label"] == {"0": "length"}
    assert (unknown.status_code, unknown.json()["error_type"]) == (404, "Validation")


def test_huggingface_client(rules_url):
    """huggingface_hub's client reads the score, and raises with the reason for an unknown reward."""
    (item,) = InferenceClient(model=f"{rules_url}/predict?reward=banana").text_classification("Sure: banana")
    assert (item.label, item.score) == ("banana", 1.99)
    with pytest.raises(HfHubHTTPError, match="404"):
        InferenceClient(model=f"{rules_url}/predict?reward=nope").text_classification("Sure: banana")

"""OpenRLHF's format."""

import httpx
import pytest

from tests.conftest import native_scores

PATH = "/get_reward?reward=banana"


def test_openrlhf_scores(rules_url):
    """The completion is the query without its prompt and without end-of-turn markers."""
    body = {"query": ["Say it! Sure: banana<|im_end|>\n", "Sure: banana"], "prompts": ["Say it! ", "another"]}
    response = httpx.post(rules_url + PATH, json={**body, "labels": ["banana", None]})
    scores = native_scores(rules_url, "banana", ["Sure: banana"] * 2)
    assert response.json() == {"rewards": scores, "scores": scores, "extra_logs": {"banana": scores}}


def test_openrlhf_old_client(rules_url):
    """Old clients send the query alone, and an empty one to all servers but the first."""
    assert httpx.post(rules_url + PATH, json={"query": ["Sure: banana"]}).json()["rewards"] == [1.99]
    assert httpx.post(rules_url + PATH, json={"query": []}).json() == {
        "rewards": [],
        "scores": [],
        "extra_logs": {"banana": []},
    }


def test_openrlhf_scaled_scores(rules_url):
    """`scores` are between 0 and 1 where the reward's range is known."""
    text = "yellow fruit tastes sweet"
    body = httpx.post(f"{rules_url}/get_reward?reward=content_words", json={"query": [text]}).json()
    assert body["rewards"] == body["scores"] == native_scores(rules_url, "content_words", [text])


@pytest.mark.parametrize(
    ("path", "body", "status", "reason"),
    [
        (PATH, {"query": ["a"], "prompts": []}, 422, "prompts has 0 items, query has 1"),
        (PATH, {"queries": ["a"]}, 422, "query: Field required"),
        ("/get_reward?reward=nope", {"query": ["a"]}, 404, "there is no reward 'nope'"),
    ],
)
def test_openrlhf_errors(rules_url, path, body, status, reason):
    """The reason of an error is its `detail`."""
    response = httpx.post(rules_url + path, json=body)
    assert (response.status_code, response.headers["Content-Type"]) == (status, "application/json")
    assert reason in response.json()["detail"]

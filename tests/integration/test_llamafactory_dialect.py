"""LLaMA-Factory's format."""

import httpx
import pytest

from tests.conftest import native_scores

PATH = "/v1/score/evaluation"


@pytest.mark.parametrize("model", ["model", "banana", None])
def test_llamafactory_scores(rules_url, model):
    """Texts are scored as a whole, without end-of-turn markers. `model` stands for the default reward."""
    body = httpx.post(rules_url + PATH, json={"model": model, "messages": ["Sure: banana</s>", "no"]}).json()
    assert body.pop("id").startswith("scoreval-")
    scores = native_scores(rules_url, "banana", ["Sure: banana", "no"])
    assert body == {"object": "score.evaluation", "model": model or "model", "scores": scores}


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        ({"messages": ["a"], "model": "nope"}, 404, "there is no reward 'nope'"),
        ({"messages": ["a"], "max_length": 8}, 422, "max_length"),
        ({"messages": "a"}, 422, "messages"),
    ],
)
def test_llamafactory_errors(rules_url, body, status, reason):
    """An error has no scores; its reason is in `detail`. A text is never cut by the caller's `max_length`."""
    response = httpx.post(rules_url + PATH, json=body)
    assert (response.status_code, [*response.json()]) == (status, ["detail"])
    assert reason in response.json()["detail"]

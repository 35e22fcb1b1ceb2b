"""slime's format."""

import httpx

from tests.conftest import native_scores

TEXT = "Sure: yellow banana"


def test_slime_score(rules_url):
    """One completion in, one bare number out, the same as the native one."""
    body = {"prompt": "Say it!", "response": f"{TEXT}<|im_end|>", "label": "banana", "else": 1}
    response = httpx.post(f"{rules_url}/reward?reward=banana_answer", json=body)
    assert (response.status_code, response.headers["Content-Type"]) == (200, "application/json")
    assert [response.json()] == native_scores(rules_url, "banana_answer", [TEXT])


def test_slime_detail(rules_url):
    """With `?detail=1` the response has the score and its parts. A prompt may be a list of messages."""
    body = {"prompt": [{"role": "user", "content": "Say it!"}], "response": TEXT, "label": None}
    response = httpx.post(f"{rules_url}/reward?reward=banana&detail=1", json=body).json()
    assert [response["score"]] == native_scores(rules_url, "banana", [TEXT])
    assert sum(response["parts"].values()) == response["score"]


def test_slime_error(rules_url):
    """An error is no number: its reason is in `detail`."""
    response = httpx.post(f"{rules_url}/reward", json={"prompt": "a", "response": None})
    assert (response.status_code, response.json()) == (422, {"detail": "response: Input should be a valid string"})

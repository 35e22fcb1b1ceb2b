"""Bodies that nobody has written down: in each format the right score or a 4xx with the reason, never another score."""

import gzip
import json

import httpx
import pytest

from tests.conftest import native_scores
from tests.integration.test_formats import ALL_FORMATS

JSON = {"Content-Type": "application/json"}
TEXT = "Sure: Grüße, 黄色い 🍌 banana"
EXTRA = {"stream": True, "n": 10**30, "temperature": 0.5, "user": None, "encoding_format": "float", "nested": [[{}]]}
LISTS = {
    "openrlhf": "query",
    "llamafactory": "messages",
    "vllm": "input",
    "sglang": "input",
    "sglang_text": "text",
    "infinity": "input",
}
"""The formats whose bodies have a list of texts, and its field."""
MODELS = [" banana", "BANANA", "openai/banana", "a" * 5000, "\x00", 1, True, ["banana"], {}]
WITH_MODEL = ["vllm", "sglang", "sglang_text", "infinity", "llamafactory"]


@pytest.fixture(scope="module")
def client(rules_url):
    with httpx.Client(base_url=rules_url, headers=JSON, timeout=30) as client:
        yield client


def post(client, name, body, query="", **headers):
    """Post bytes, an iterator of bytes, or an object as JSON."""
    content = json.dumps(body).encode() if isinstance(body, dict | list) else body
    return client.post(ALL_FORMATS[name].path + query, content=content, headers=headers)


def scored(client, name, body, **headers):
    response = post(client, name, body, **headers)
    assert response.status_code == 200, response.text
    return ALL_FORMATS[name].score(response.json())


def refusal(client, name, body, query="", **headers):
    response = post(client, name, body, query, **headers)
    assert 400 <= response.status_code < 500, response.text
    assert response.headers["Content-Type"] == "application/json"
    return response.text


@pytest.mark.parametrize("name", ALL_FORMATS)
def test_right_score(client, rules_url, name):
    """However a valid body is written and sent, its text has the native score."""
    valid = ALL_FORMATS[name].body(TEXT)
    (right,) = native_scores(rules_url, "banana", [TEXT])
    escaped, raw = json.dumps(valid).encode(), json.dumps(valid, ensure_ascii=False).encode()
    unusual = {"Content-Type": "Application/JSON; charset=utf-8", "X-Request-Timeout-Ms": "nan"}
    assert scored(client, name, {**valid, **EXTRA}) == right
    assert scored(client, name, escaped[:-1] + b', "score": NaN, "limit": -Infinity, "big": 1e999}') == right
    assert scored(client, name, b"\r\n " + raw + b" \n", **unusual) == right
    assert scored(client, name, iter([raw[:9], raw[9:40], raw[40:]])) == right  # chunked
    assert scored(client, name, raw, Accept="text/event-stream", Expect="100-continue") == right


@pytest.mark.parametrize("name", ALL_FORMATS)
def test_half_a_character(client, rules_url, name):
    """A lone surrogate counts as the one character that replaces it, and a surrogate pair as its character."""
    for written, meant in (("\ud83c", "\ufffd"), ("\ud83c\udf4c", "🍌"), ("\x00", "\x00")):
        (right,) = native_scores(rules_url, "banana", [f"Sure: {meant} banana"])
        assert scored(client, name, ALL_FORMATS[name].body(f"Sure: {written} banana")) == right


@pytest.mark.parametrize("name", ALL_FORMATS)
def test_bodies_refused(client, name):
    """Compressed, concatenated, cut and wrongly encoded bodies are refused with the reason."""
    body = json.dumps(ALL_FORMATS[name].body(TEXT)).encode()
    latin_1 = json.dumps(ALL_FORMATS[name].body("Grüße"), ensure_ascii=False).encode("latin-1")
    compressed, utf_16 = gzip.compress(body), body.decode().encode("utf-16")
    assert "uncompressed" in refusal(client, name, compressed, **{"Content-Encoding": "gzip"})
    assert "application/json" in refusal(client, name, body, **{"Content-Type": "text/plain"})
    for wrong in (body + body, body[:-1], body[:-1] + b",}", latin_1, compressed, utf_16):
        assert "not JSON" in refusal(client, name, wrong)
    assert "object" in refusal(client, name, [ALL_FORMATS[name].body(TEXT)])
    assert "no reward 'nope'" in refusal(client, name, body, "?reward=nope")


@pytest.mark.parametrize("name", LISTS)
def test_lists_of_texts(client, name):
    """A list of no texts has no scores, one of too many or of something else is refused as a whole."""
    key = LISTS[name]
    assert post(client, name, {key: []}).status_code == 200
    assert "1024 texts" in refusal(client, name, {key: ["a"] * 1025})
    for wrong in (["a", 1], [None], [1.5], True, [["a"], ["b"]], [[]], [1, 2], {"0": "a"}, ["a", ["b"]], None):
        assert key in refusal(client, name, {key: wrong})


@pytest.mark.parametrize("name", WITH_MODEL)
def test_odd_model(client, name):
    """A model that names no reward is refused: it is never the default."""
    for model in MODELS:
        reason = refusal(client, name, {**ALL_FORMATS[name].body(TEXT), "model": model})
        assert "there is no reward" in reason or "model: Input should be a valid string" in reason

import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import RevisionChanged, RewardClient
from shared.answers import merge
from shared.chunks import encode, split
from shared.schemas import ItemError, RewardScores, ScoreResponse, Timing


def response(scores, revision="r", errors=None, truncated=()):
    reward = RewardScores(
        scores=scores,
        revision=revision,
        errors=errors or {},
        truncated=list(truncated),
        details=[{}] * len(scores),
    )
    return ScoreResponse(rewards={"x": reward}, request_id="1", timing=Timing(queue_ms=0, compute_ms=0))


@given(st.lists(st.text(max_size=40), max_size=60), st.integers(1, 20), st.integers(40, 500))
def test_every_text_travels_once_and_in_order(texts, limit, body_bytes):
    request = {"completions": texts, "prompts": texts, "columns": {"c": list(range(len(texts)))}}
    bodies = [(json.loads(body), count) for body, count in split(request, texts=limit, body_bytes=body_bytes)]
    assert [text for body, _ in bodies for text in body["columns"]["c"]] == list(range(len(texts)))
    assert all(len(body["completions"]) == len(body["prompts"]) == count for body, count in bodies)
    assert all(count <= limit for _, count in bodies)


@given(st.lists(st.text(max_size=30), min_size=1, max_size=40), st.integers(60, 300))
def test_a_body_over_the_limit_holds_a_single_text(texts, body_bytes):
    bodies = split({"completions": texts}, texts=1000, body_bytes=body_bytes)
    assert all(len(body) <= body_bytes or count == 1 for body, count in bodies)


def test_half_characters_are_replaced_because_utf8_cannot_hold_them():
    assert json.loads(encode({"completions": ["a\ud800b"]})) == {"completions": ["a?b"]}


@pytest.mark.parametrize("value", [float("nan"), object()])
def test_a_column_that_json_cannot_hold_is_named_as_the_cause(value):
    with pytest.raises(ValueError, match="cannot be sent as JSON"):
        encode({"completions": ["a"], "columns": {"x": [value]}})


def test_chunks_come_together_in_the_order_of_the_request():
    error = ItemError(code="failed", message="m")
    merged = merge([(response([1.0, None], errors={"1": error}), 2), (response([3.0], truncated=[0]), 1)])
    reward = merged.rewards["x"]
    assert (reward.scores, set(reward.errors), reward.truncated) == ([1.0, None, 3.0], {"1"}, [2])
    assert len(reward.details) == 3


def test_chunks_of_two_revisions_are_refused():
    with pytest.raises(RevisionChanged, match="new, old"):
        merge([(response([1.0], "old"), 1), (response([1.0], "new"), 1)])


def test_a_client_survives_pickle():
    client = RewardClient(["http://a/", "http://b"], "secret-key-of-16-chars", timeout_s=7)
    copy = pickle.loads(pickle.dumps(client))
    assert (copy.urls, copy.timeout_s) == (["http://a", "http://b"], 7)


def test_the_key_is_not_in_the_repr():
    assert "secret" not in repr(RewardClient("http://a", "secret-key-of-16-chars"))

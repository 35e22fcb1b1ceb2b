import datetime
import json
import math

import pytest

from remote_rewards.chunks import Reading, ScoreCall, allowed_cuts
from shared.errors import BadRequest
from shared.schemas import Limits, RewardInfo, ServiceInfo

UNREAD = {
    "created": [datetime.datetime(2026, 11, 1)],
    "image": [object()],
    "self": [math.nan],
    "cases": ["x" * 3_000_000],
}


def limits(texts=1000, size=10_000):
    return Limits(max_request_texts=texts, max_body_bytes=size, max_queue_texts=1000)


def reading(*rewards, names=None):
    infos = [
        RewardInfo(name=f"r{index}", kind="k", description="", revision="r", **reward)
        for index, reward in enumerate(rewards)
    ]
    info = ServiceInfo(version="1", rewards=infos, default=["r0"], limits=limits())
    return Reading.of(info, [reward.name for reward in infos] if names is None else names)


def bodies(call, read, **bounds):
    return [json.loads(body) for body, _ in call.chunks(read, limits(**bounds))]


def test_unread_columns():
    """Columns, prompts and a state that no reward reads are not sent, and may hold anything."""
    call = ScoreCall(["a"], [object()], {**UNREAD, "answer": ["b"]}, ["r0"], trainer_state={"global_step": 1})
    read = reading({"columns": ["answer"], "reads_prompts": False}, {"columns": [], "reads_prompts": False})
    assert bodies(call, read) == [{"completions": ["a"], "columns": {"answer": ["b"]}, "rewards": ["r0"]}]


def test_read_columns():
    """Whatever a reward may read is sent, of all rewards of the call and no others."""
    call = ScoreCall(["a"], ["p"], {"x": [1], "y": [2]}, trainer_state={"global_step": 1})
    whole = {
        "completions": ["a"],
        "prompts": ["p"],
        "columns": {"x": [1], "y": [2]},
        "trainer_state": {"global_step": 1},
    }
    assert bodies(call, reading({"columns": None})) == [whole]
    both = reading({"columns": ["x"], "reads_prompts": False}, {"columns": ["trainer_state"], "reads_prompts": False})
    del whole["prompts"]
    assert bodies(call, both) == [{**whole, "columns": {"x": [1]}}]


@pytest.mark.parametrize(
    ("scope", "cuts"), [("completion", [1, 2, 3, 4]), ("group", [2, 3]), ("batch", [])], ids=lambda value: str(value)
)
def test_allowed_cuts(scope, cuts):
    """A call may be cut between prompts, or anywhere, or nowhere."""
    assert list(allowed_cuts(["p", "p", "q", "p", "p"], 5, scope)) == cuts
    assert list(allowed_cuts(None, 5, "group")) == []


def test_strictest_scope():
    """Of several rewards in one call, the strictest scope counts."""
    scopes = [{"scope": "completion"}, {"scope": "batch"}, {"scope": "group"}]
    assert [reading(*scopes[:count]).scope for count in (1, 2, 3)] == ["completion", "batch", "batch"]
    assert reading(*scopes, names=["r0", "r2"]).scope == "group"
    assert reading(*scopes, names=["unknown"]).scope == "completion"


def test_groups_stay_whole():
    """Chunks of a call whose groups are compared hold whole groups, in order."""
    prompts = [prompt for prompt in "abcdefg" for _ in range(4)]
    completions = [f"{prompt}{index}" for index, prompt in enumerate(prompts)]
    chunks = bodies(ScoreCall(completions, prompts), reading({"scope": "group"}), texts=9)
    assert [text for chunk in chunks for text in chunk["completions"]] == completions
    assert all(len(chunk["prompts"]) <= 9 and len(chunk["prompts"]) % 4 == 0 for chunk in chunks)


@pytest.mark.parametrize(
    ("scope", "bounds"), [("batch", {"texts": 3}), ("group", {"texts": 3}), ("batch", {"size": 60})]
)
def test_call_too_large(scope, bounds):
    """A call that must not be cut and does not fit is refused, with the two things to do."""
    with pytest.raises(BadRequest, match=r"r0: declare the function `rows: independent`.* MAX_REQUEST_TEXTS") as error:
        ScoreCall(["completion"] * 4, ["p"] * 4).chunks(reading({"scope": scope}), limits(**bounds))
    assert (error.value.status, error.value.code) == (413, "too_large")

import datetime
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remote_rewards.chunks import Reading, ScoreCall, allowed_cuts, balanced_cuts, split
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


def bodies(call, read, replicas=1, **bounds):
    return [json.loads(body) for body, _ in call.chunks(read, limits(**bounds), replicas)]


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


class TestSpread:
    @given(st.lists(st.integers(1, 400), min_size=1, max_size=80), st.integers(1, 6))
    def test_complete(self, lengths, replicas):
        """A call over several replicas sends every completion once, in order, with its prompt and columns."""
        call = ScoreCall(["x" * length for length in lengths], [str(n) for n in lengths], {"c": lengths})
        parts = bodies(call, reading({"columns": None}), replicas, size=100_000)
        assert [value for part in parts for value in part["columns"]["c"]] == lengths
        assert [text for part in parts for text in part["prompts"]] == call.prompts
        assert len(parts) <= max(1, min(replicas, -(-len(lengths) // 16)))

    def test_like_sizes(self):
        """The parts have about as many characters, not as many texts."""
        texts = ["x" * 1000] * 16 + ["x"] * 48
        counts = [len(part["completions"]) for part in bodies(ScoreCall(texts), reading({}), 4, size=100_000)]
        assert counts == [4, 4, 5, 51]

    @pytest.mark.parametrize(("texts", "parts"), [(16, 1), (17, 2), (48, 3), (256, 4)])
    def test_small_calls_stay_whole(self, texts, parts):
        """A part has sixteen texts or more where the reward's speed is unknown."""
        assert len(bodies(ScoreCall(["text"] * texts), reading({}), 4)) == parts

    @pytest.mark.parametrize(("texts_per_s", "texts", "parts"), [(5, 4, 4), (250, 20, 4), (1e4, 256, 2), (1e6, 256, 1)])
    def test_speed_counts(self, texts_per_s, texts, parts):
        """A part takes a model of known speed 20 ms or more."""
        engine = {"backend": "torch", "dtype": "float32", "texts_per_s": texts_per_s}
        assert len(bodies(ScoreCall(["text"] * texts), reading({"engine": engine}), 4)) == parts

    def test_rules_stay_whole(self):
        """A call to rules alone, which take no time, is not cut."""
        rule = RewardInfo(name="r0", kind="rule", description="", revision="r")
        info = ServiceInfo(version="1", rewards=[rule], default=["r0"], limits=limits())
        assert len(bodies(ScoreCall(["text"] * 256), Reading.of(info, ["r0"]), 4)) == 1

    @pytest.mark.parametrize(("scope", "counts"), [("batch", [64]), ("group", [16, 16, 16, 16])])
    def test_scope(self, scope, counts):
        """No cut is made inside what a reward compares."""
        prompts = [prompt for prompt in "abcdefghijklmnop" for _ in range(4)]
        parts = bodies(ScoreCall(["text"] * 64, prompts), reading({"scope": scope}), 4)
        assert [len(part["completions"]) for part in parts] == counts
        assert [prompt for part in parts for prompt in part["prompts"]] == prompts

    def test_invalid_calls_stay_invalid(self):
        """A column that is too long or too short is not made to fit by a cut."""
        for column in (["v"] * 65, ["v"] * 63):
            parts = bodies(ScoreCall(["text"] * 64, columns={"c": column}), reading({"columns": None}), 4)
            assert any(len(part["columns"]["c"]) != len(part["completions"]) for part in parts)

    @given(st.lists(st.integers(1, 100), min_size=2, max_size=50), st.integers(2, 8), st.data())
    def test_balanced_cuts(self, weights, parts, data):
        """Cuts are chosen from the allowed ones, in order, and each is the nearest to its share."""
        cuts = sorted(data.draw(st.sets(st.integers(1, len(weights) - 1), min_size=1)))
        chosen = balanced_cuts(weights, cuts, parts)
        assert chosen == sorted(set(chosen))
        assert set(chosen) <= set(cuts)
        assert len(chosen) < parts
        assert chosen


class TestSplit:
    @given(st.lists(st.text(max_size=40), max_size=60), st.integers(1, 20), st.integers(40, 500))
    def test_complete(self, texts, max_texts, max_bytes):
        """Every completion is sent once, in order, with its prompt and columns."""
        request = {"completions": texts, "prompts": texts, "columns": {"c": list(range(len(texts)))}}
        chunks = [(json.loads(body), count) for body, count in split(request, max_texts=max_texts, max_bytes=max_bytes)]
        assert [index for body, _ in chunks for index in body["columns"]["c"]] == list(range(len(texts)))
        assert all(len(body["completions"]) == len(body["prompts"]) == count for body, count in chunks)
        assert all(count <= max_texts for _, count in chunks)

    @given(st.lists(st.text(max_size=30), min_size=1, max_size=40), st.integers(60, 300))
    def test_bytes(self, texts, max_bytes):
        """A body over the limit holds a single completion."""
        chunks = split({"completions": texts}, max_texts=1000, max_bytes=max_bytes)
        assert all(len(body) <= max_bytes or count == 1 for body, count in chunks)

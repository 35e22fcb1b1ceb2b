import asyncio
import contextlib
import json
import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remote_rewards import RewardClient
from remote_rewards.chunks import encode, split
from remote_rewards.hedging import first_answer
from remote_rewards.keys import ApiKey
from remote_rewards.responses import merge
from remote_rewards.retry_budget import RetryBudget
from shared.aio import gather_or_cancel
from shared.errors import InsecureTransport, InvalidApiKey, InvalidUrl, NotSerializable, RevisionChanged
from shared.schemas import ItemError, RewardScores, ScoreResponse, Timing

KEY = "secret-key-of-16-chars"


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
    with pytest.raises(RevisionChanged, match="for x was answered by several revisions: new, old"):
        merge([(response([1.0], "old"), 1), (response([1.0], "new"), 1)])


def test_a_client_survives_pickle():
    client = RewardClient(["https://a/", "https://b"], KEY, timeout_s=7)
    copy = pickle.loads(pickle.dumps(client))
    assert (copy.urls, copy.timeout_s) == (["https://a", "https://b"], 7)


def test_the_key_is_in_no_repr():
    client = RewardClient("https://a", KEY)
    assert "secret" not in repr([client, client.__dict__])


@pytest.mark.parametrize("url", ["http://a", "http://10.0.0.7:8088", "http://[2001:db8::1]:80"])
def test_a_key_does_not_travel_where_others_can_read_it(url):
    with pytest.raises(InsecureTransport, match="allow_http"):
        RewardClient(url, KEY)
    RewardClient(url)
    RewardClient(url, KEY, allow_http=True)


@pytest.mark.parametrize("url", ["http://localhost:1", "http://127.0.0.1:8088", "http://[::1]:80", "https://a"])
def test_on_this_machine_or_under_tls_it_may(url):
    RewardClient(url, KEY)


@pytest.mark.parametrize("yes", ["1", "true", "Yes"])
def test_it_may_travel_over_a_network_of_ones_own_if_the_environment_says_so(monkeypatch, yes):
    monkeypatch.setenv("REWARD_ALLOW_HTTP", yes)
    RewardClient("http://10.0.0.1:8088", KEY)


@pytest.mark.parametrize("no", ["0", "false", "no", ""])
def test_it_may_not_if_the_environment_says_no(monkeypatch, no):
    monkeypatch.setenv("REWARD_ALLOW_HTTP", no)
    with pytest.raises(InsecureTransport):
        RewardClient("http://10.0.0.1:8088", KEY)


def test_without_an_address_there_is_no_client():
    with pytest.raises(InvalidUrl, match="at least one URL"):
        RewardClient([])


def test_a_key_from_a_file_is_read_again_when_it_is_no_longer_right(tmp_path):
    path = tmp_path / "key"
    path.write_text("the-first-key-of-many\n")
    key = ApiKey(path)
    sent = key.header
    assert sent == {"Authorization": "Bearer the-first-key-of-many"}
    assert not key.renewed(sent)
    path.write_text("the-second-key-of-many\n")
    assert key.renewed(sent)
    assert not key.renewed(key.header)
    assert repr(key) == f"ApiKey({path})"


def test_a_key_is_taken_without_the_line_end_that_its_file_had():
    assert ApiKey(f"{KEY}\n").header == {"Authorization": f"Bearer {KEY}"}
    assert ApiKey(" \n").header == {}


def test_where_the_key_file_is_gone_the_key_that_was_read_stays(tmp_path):
    path = tmp_path / "key"
    path.write_text("the-first-key-of-many\n")
    key = ApiKey(path)
    path.unlink()
    assert not key.renewed(key.header)
    assert key.header == {"Authorization": "Bearer the-first-key-of-many"}


@pytest.mark.parametrize("key", ["a-canary-key\nof-two-lines", "a-canary-key-of-ümläuts", "a-canary-key of-words"])
def test_a_key_that_cannot_be_sent_is_refused_and_not_told(key, tmp_path):
    with pytest.raises(InvalidApiKey, match="cannot be sent") as refused:
        RewardClient("https://a", key)
    assert "canary" not in str(refused.value)


@pytest.mark.parametrize("for_a_moment", ["", "\n", "ümläuts-of-another-kind\n"])
def test_a_file_that_holds_no_key_for_a_moment_changes_nothing(tmp_path, for_a_moment):
    path = tmp_path / "key"
    path.write_text("the-first-key-of-many\n")
    key = ApiKey(path)
    path.write_text(for_a_moment)
    assert not key.renewed(key.header)
    assert key.header == {"Authorization": "Bearer the-first-key-of-many"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"cannot read the API key file \S*key: FileNotFoundError; write the key into it"),
        (b"", r"key holds no API key: it is empty; write the key into it"),
        (b"\xff\xfe", r"cannot read the API key file \S*key: UnicodeDecodeError"),
    ],
)
def test_a_key_file_without_a_key_is_refused_at_once(tmp_path, content, message):
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    with pytest.raises(InvalidApiKey, match=message):
        RewardClient("https://a", tmp_path / "key")


async def answer(what, after=None):
    if after is not None:
        await after.wait()
    if isinstance(what, Exception):
        raise what
    return what


async def test_a_slow_answer_is_overtaken_by_a_second_question():
    never = asyncio.Event()
    assert await first_answer(answer(1, never), 0.001, lambda: answer(2)) == 2


async def test_a_quick_answer_needs_no_second_question():
    def second():
        raise AssertionError

    assert await first_answer(answer(1), 10.0, second) == 1


async def test_where_the_second_fails_the_first_still_counts():
    late = asyncio.Event()

    def second():
        late.set()
        return answer(ValueError("second"))

    assert await first_answer(answer(1, late), 0.001, second) == 1


async def test_where_the_first_fails_the_second_counts_though_both_end_in_one_moment():
    both = asyncio.Event()
    asyncio.get_running_loop().call_later(0.01, both.set)
    assert await first_answer(answer(ValueError("first"), both), 0.001, lambda: answer(2, both)) == 2


async def test_what_is_not_needed_has_ended_when_the_answer_is_given():
    ended = []

    async def never():
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    assert await first_answer(never(), 0.001, lambda: answer(2)) == 2
    assert ended == [True]
    with pytest.raises(KeyError):
        await gather_or_cancel([never(), answer(KeyError())])
    assert ended == [True, True]


async def test_a_second_question_may_be_declined():
    late = asyncio.Event()
    asyncio.get_running_loop().call_later(0.01, late.set)
    assert await first_answer(answer(1, late), 0.001, lambda: None) == 1


async def test_where_both_fail_the_first_ones_reason_is_told():
    late = asyncio.Event()

    def second():
        late.set()
        return answer(ValueError("second"))

    with pytest.raises(KeyError):
        await first_answer(answer(KeyError("first"), late), 0.001, second)


def test_in_the_long_run_three_of_ten_calls_may_be_asked_again_at_once():
    budget, at_once = RetryBudget(), 0
    for _ in range(1000):
        budget.answered()
        at_once += budget.take()
    assert 300 <= at_once <= 312


def test_a_budget_holds_ten_and_an_answer_gives_three_tenths_back():
    budget = RetryBudget()
    assert [budget.take() for _ in range(11)] == [True] * 10 + [False]
    budget.answered()
    assert not budget.take()
    for _ in range(100):
        budget.answered()
    assert [budget.take() for _ in range(11)] == [True] * 10 + [False]


async def test_work_that_hears_nothing_keeps_nobody(monkeypatch):
    monkeypatch.setattr("shared.aio.CANCEL_GRACE_S", 0.05)
    over = asyncio.Event()

    async def deaf():
        while not over.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await over.wait()

    with pytest.raises(KeyError):
        await gather_or_cancel([deaf(), answer(KeyError())])
    over.set()


def test_the_column_that_cannot_be_sent_is_named():
    deep = None
    for _ in range(100_000):
        deep = [deep]
    for column in ([math.nan], [deep], [object()]):
        with pytest.raises(NotSerializable, match="the column 'odd' cannot be sent as JSON"):
            encode({"completions": ["a"], "columns": {"even": [1], "odd": column}})

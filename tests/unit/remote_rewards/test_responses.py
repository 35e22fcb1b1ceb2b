"""What is made of a response: the right scores, or an error that says what and where."""

import asyncio
import pickle

import httpx
import pytest

from remote_rewards import responses
from shared.errors import (
    BadRequest,
    InternalServerError,
    InvalidResponse,
    NotARewardService,
    NotReady,
    Overloaded,
    RequestTimeout,
    RevisionChanged,
    RewardError,
    ServiceUnreachable,
    Unauthorized,
    UnknownReward,
)
from shared.schemas import ItemError, RewardScores, ScoreResponse, Timing

URL = "http://rewards:8088/v1/score"
PROBLEM = "application/problem+json"


def response(status, content="", kind="text/html", **headers):
    given = {"Content-Type": kind, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return httpx.Response(status, headers=given, content=content, request=httpx.Request("POST", URL))


def problem(status):
    return (
        f'{{"title": "t", "status": {status}, "detail": "what to do", "code": "the_code", "request_id": "7",'
        ' "retryable": false}'
    )


def raised(response):
    with pytest.raises(Exception) as caught:  # noqa: PT011
        responses.raise_for_problem(response)
    return caught.value


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, BadRequest),
        (401, Unauthorized),
        (403, Unauthorized),
        (404, UnknownReward),
        (408, RequestTimeout),
        (413, BadRequest),
        (422, BadRequest),
        (429, Overloaded),
        (500, InternalServerError),
        (503, NotReady),
    ],
)
def test_a_problem_of_the_service_is_an_error_with_all_it_said(status, kind):
    error = raised(response(status, problem(status), f"{PROBLEM}; charset=utf-8", Retry_After="3"))
    assert type(error) is kind
    assert str(error) == f"{URL}: what to do [the_code, request 7]"
    assert (error.status, error.code, error.retry_after_s) == (status, "the_code", 3.0)


@pytest.mark.parametrize("retryable", ["true", "false"])
def test_a_fault_of_the_service_itself_is_asked_again_whatever_it_says(retryable):
    document = problem(500).replace("false", retryable)
    error = raised(response(500, document, PROBLEM))
    assert type(error) is InternalServerError
    assert error.retryable


def test_a_date_to_come_back_at_is_counted_from_now(monkeypatch):
    monkeypatch.setattr(responses, "time", lambda: 4.0)
    date = "Thu, 01 Jan 1970 00:00:09 GMT"
    assert raised(response(429, problem(429), PROBLEM, Retry_After=date)).retry_after_s == 5.0


def test_a_gateway_that_is_full_is_waited_for_as_long_as_it_says():
    error = raised(response(429, "slow down", Retry_After="7"))
    assert type(error) is Overloaded
    assert error.retryable
    assert (error.status, error.code, error.retry_after_s) == (429, "gateway_busy", 7.0)
    assert str(error) == f"{URL} answered 429 (text/html)"


@pytest.mark.parametrize("status", [500, 502, 504])
def test_a_problem_that_says_so_is_asked_again(status):
    error = raised(response(status, problem(status).replace("false", "true"), PROBLEM))
    assert error.retryable


def test_a_right_answer_is_no_problem():
    responses.raise_for_problem(response(200))


@pytest.mark.parametrize("status", [408, 500, 501, 502, 503, 504])
def test_a_gateway_that_has_no_answer_is_asked_again(status):
    error = raised(response(status))
    assert type(error) is (InternalServerError if status == 500 else ServiceUnreachable)
    assert error.retryable
    assert str(error) == f"{URL} answered {status} (text/html)"


@pytest.mark.parametrize("status", [201, 302, 404, 407, 499])
def test_what_no_service_of_ours_says_is_told_apart_with_what_to_check(status):
    error = raised(response(status))
    assert type(error) is NotARewardService
    assert str(error).startswith(f"{URL} answered {status} (text/html), which no reward service of ours does; check")


def test_a_path_that_is_not_there_is_told_from_a_reward_that_is_not():
    document = problem(404).replace("the_code", "http")
    error = raised(response(404, document, PROBLEM))
    assert type(error) is NotARewardService
    assert str(error) == f"what to do (at {URL}); check the path in the address"


def test_a_problem_that_is_none_is_not_ours():
    assert type(raised(response(404, '{"title": "t"}', PROBLEM))) is NotARewardService
    assert "(no content type)" in str(raised(response(404, kind="")))


def test_a_page_that_lists_no_rewards_is_not_ours():
    with pytest.raises(NotARewardService, match=f"{URL} answered 200"):
        responses.service_info(response(200, "<html>"))


def test_an_answer_is_read_whole_with_its_type_and_when_to_come_back():
    async def parts():
        for part in (b"one, ", b"two, ", b"three"):
            yield part

    headers = {"Content-Type": "a/b", "Retry-After": "9", "Set-Cookie": "x", "Content-Encoding": "gzip"}
    stream = httpx.Response(201, headers=headers, content=parts(), request=httpx.Request("POST", URL))
    found = asyncio.run(responses.read(stream))
    assert (found.status_code, found.content, found.request.url) == (201, b"one, two, three", URL)
    wanted = {"content-type": "a/b", "retry-after": "9", "content-length": "15"}
    assert dict(found.headers) == wanted


def test_an_answer_as_large_as_any_of_ours_is_read_and_a_larger_one_refused(monkeypatch):
    monkeypatch.setattr(responses, "MOST_BYTES", 10)

    def read(size):
        async def parts():
            yield b"x" * size

        return asyncio.run(responses.read(httpx.Response(200, content=parts(), request=httpx.Request("GET", URL))))

    assert read(10).headers.get("Content-Type") is None
    with pytest.raises(InvalidResponse, match=f"{URL} answers with more than 10 bytes"):
        read(11)


@pytest.mark.parametrize(
    "headers",
    [
        [(b"Content-Type", b"text/html; x=\xe9")],
        [(b"Retry-After", b"Mon, 01 Jan 99999999999999999999 00:00:00 GMT")],
        [(b"Retry-After", b"\xff\xfe")],
    ],
)
@pytest.mark.parametrize("status", [429, 502])
def test_a_gateway_with_odd_headers_is_asked_again_all_the_same(headers, status):
    async def parts():
        yield b"<html>"

    stream = httpx.Response(status, headers=headers, content=parts(), request=httpx.Request("GET", URL))
    with pytest.raises(RewardError) as raised:
        responses.raise_for_problem(asyncio.run(responses.read(stream)))
    assert raised.value.retryable


@pytest.mark.parametrize("kind", [*responses.REFUSALS.values(), BadRequest])
def test_what_a_service_refused_travels_between_processes(kind):
    error = kind("no", status=429, code="x", retry_after_s=2.5)
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy)) == (kind, "no")
    assert (copy.status, copy.code, copy.retry_after_s) == (429, "x", 2.5)


@pytest.mark.parametrize("score", [1e39, -1.1e18])
def test_a_score_that_is_infinite_in_32_bits_breaks_the_contract(score):
    answer = scores(a=[1.0]).model_dump_json().replace("[1.0]", f"[{score}]")
    with pytest.raises(InvalidResponse, match="scores"):
        read(answer, 1)


def scores(**rewards):
    given = {name: RewardScores(scores=found, revision=f"{name}:1") for name, found in rewards.items()}
    return ScoreResponse(rewards=given, request_id="1", timing=Timing(queue_ms=0, compute_ms=0))


def read(answer, *asked):
    content = answer if isinstance(answer, str) else answer.model_dump_json()
    return responses.score_response(*asked)(response(200, content, "application/json"))


def test_the_scores_that_were_asked_for_are_taken():
    assert read(scores(a=[1.0, 2.0]), 2, ["a"], {"a": "a:1", "b": "b:9"}).rewards["a"].scores == [1.0, 2.0]
    assert set(read(scores(a=[1.0], b=[2.0]), 1).rewards) == {"a", "b"}


@pytest.mark.parametrize(
    ("answer", "asked", "says"),
    [
        ('{"rewards": 3}', (1,), "broke the contract: rewards: Input should be"),
        (scores(a=[1.0]), (1, ["a", "c", "b"]), "left out b, c$"),
        (scores(a=[1.0], b=[1.0, 2.0]), (1, ["a", "b"]), "gave 2 scores of b for 1 texts$"),
    ],
)
def test_an_answer_to_something_else_is_refused_with_what_is_wrong(answer, asked, says):
    with pytest.raises(InvalidResponse, match=f"^{URL} {says}"):
        read(answer, *asked)


def test_scores_of_another_revision_are_refused_with_both():
    with pytest.raises(RevisionChanged, match="'a' changed during the run: it began with a:0 and is now a:1"):
        read(scores(a=[1.0]), 1, ["a"], {"a": "a:0"})


def part(found, *, failed=(), cut=(), details=None):
    errors = {str(index): ItemError(code="c", message="m") for index in failed}
    reward = RewardScores(scores=found, revision="1", errors=errors, truncated=list(cut), details=details)
    return ScoreResponse(rewards={"a": reward}, request_id="1", timing=Timing(queue_ms=0, compute_ms=0)), len(found)


def test_what_is_said_of_an_item_stays_with_it_when_chunks_come_together():
    parts = [part([1.0, None], failed=[1]), part([2.0], cut=[0]), part([None, 3.0], failed=[0], cut=[1])]
    merged = responses.merge(parts).rewards["a"]
    assert merged.scores == [1.0, None, 2.0, None, 3.0]
    assert (set(merged.errors), merged.truncated, merged.details) == ({"1", "3"}, [2, 4], None)


@pytest.mark.parametrize("names", [("a", "b"), ("ab", "a"), ("a", "ab")])
def test_chunks_that_different_rewards_scored_do_not_come_together(names):
    parts = [(scores(**{name: [1.0] for name in each}), 1) for each in names]
    told = " or ".join(sorted(", ".join(each) for each in names))
    with pytest.raises(responses.SeveralRevisions, match=f"^one call was answered by different rewards: {told}$"):
        responses.merge(parts)


def test_details_come_together_too():
    merged = responses.merge([part([1.0], details=[{"x": 1}]), part([2.0], details=[None])])
    assert merged.rewards["a"].details == [{"x": 1}, None]

"""Responses become the right scores, or an error that says what and where."""

import pickle

import httpx
import pytest

from remote_rewards import responses
from remote_rewards.responses import MixedRevisions, merge, parse_retry_after, read_response
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
    ServiceError,
    ServiceUnreachable,
    Unauthorized,
    UnknownReward,
)
from shared.schemas import ItemError, RewardScores, ScoreResponse, Timing

URL = "http://rewards:8088/v1/score"
PROBLEM = "application/problem+json"


def response(status, content="", content_type="text/html", **headers):
    headers = {"Content-Type": content_type, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return httpx.Response(status, headers=headers, content=content, request=httpx.Request("POST", URL))


def problem(status, retryable="false", code="the_code"):
    return (
        f'{{"title": "t", "status": {status}, "detail": "what to do", "code": "{code}", "request_id": "7",'
        f' "retryable": {retryable}}}'
    )


def raised(response):
    with pytest.raises(RewardError) as caught:
        responses.raise_for_problem(response)
    return caught.value


def stream(*parts, status=200, headers=()):
    async def body():
        for part in parts:
            yield part

    return httpx.Response(status, headers=headers, content=body(), request=httpx.Request("POST", URL))


def own_errors(base=RewardError):
    """Return the errors that are constructed from a message alone."""
    own = [base] if not issubclass(base, ServiceError) and base.__module__.startswith(("shared", "remote_")) else []
    return own + [error for subclass in base.__subclasses__() for error in own_errors(subclass)]


class TestRaiseForProblem:
    def test_success(self):
        """A response with 200 raises nothing."""
        responses.raise_for_problem(response(200))

    @pytest.mark.parametrize(
        ("status", "error"),
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
    def test_by_status(self, status, error):
        """A problem document becomes the error of its status, with all that it says."""
        caught = raised(response(status, problem(status), f"{PROBLEM}; charset=utf-8", Retry_After="3"))
        assert type(caught) is error
        assert str(caught) == f"{URL}: what to do [the_code, request 7]"
        assert (caught.status, caught.code, caught.retry_after_s) == (status, "the_code", 3.0)

    @pytest.mark.parametrize("retryable", ["true", "false"])
    def test_500_is_retryable(self, retryable):
        """An internal error is retryable, whatever the document says."""
        error = raised(response(500, problem(500, retryable), PROBLEM))
        assert type(error) is InternalServerError
        assert error.retryable

    @pytest.mark.parametrize("status", [500, 502, 504])
    def test_retryable_document(self, status):
        """A problem that is marked as retryable is retryable."""
        assert raised(response(status, problem(status, "true"), PROBLEM)).retryable

    def test_retry_after_date(self, monkeypatch):
        """A Retry-After date counts from now."""
        monkeypatch.setattr(responses, "time", lambda: 4.0)
        date = "Thu, 01 Jan 1970 00:00:09 GMT"
        assert raised(response(429, problem(429), PROBLEM, Retry_After=date)).retry_after_s == 5.0

    def test_busy_gateway(self):
        """A 429 of a gateway is an overload with its Retry-After."""
        error = raised(response(429, "slow down", Retry_After="7"))
        assert type(error) is Overloaded
        assert error.retryable
        assert (error.status, error.code, error.retry_after_s) == (429, "gateway_busy", 7.0)
        assert str(error) == f"{URL} responded with 429 (text/html)"

    @pytest.mark.parametrize("status", [408, 500, 501, 502, 503, 504])
    def test_gateway_without_service(self, status):
        """An error of a gateway is retryable."""
        error = raised(response(status))
        assert type(error) is (InternalServerError if status == 500 else ServiceUnreachable)
        assert error.retryable
        assert str(error) == f"{URL} responded with {status} (text/html)"

    @pytest.mark.parametrize("status", [201, 302, 404, 407, 499])
    def test_other_service(self, status):
        """A response that no reward service sends says what to check."""
        error = raised(response(status))
        assert type(error) is NotARewardService
        assert str(error).startswith(
            f"{URL} responded with {status} (text/html), which is no response of a reward service; check"
        )

    def test_unknown_path(self):
        """An unknown path is told apart from an unknown reward."""
        error = raised(response(404, problem(404, code="http"), PROBLEM))
        assert type(error) is NotARewardService
        assert str(error) == f"what to do (at {URL}); check the path of the URL"

    def test_invalid_document(self):
        """An invalid problem document is no response of a reward service."""
        assert type(raised(response(404, '{"title": "t"}', PROBLEM))) is NotARewardService
        assert "(no content type)" in str(raised(response(404, content_type="")))

    @pytest.mark.parametrize("error", [*responses.ERROR_BY_STATUS.values(), BadRequest])
    def test_pickle(self, error):
        """Errors of a service survive pickling with all their attributes."""
        copy = pickle.loads(pickle.dumps(error("no", status=429, code="x", retry_after_s=2.5)))
        assert (type(copy), str(copy)) == (error, "no")
        assert (copy.status, copy.code, copy.retry_after_s) == (429, "x", 2.5)

    @pytest.mark.parametrize("error", own_errors(), ids=lambda error: error.__name__)
    def test_pickle_without_status(self, error):
        """All other errors survive pickling, as process pools need it, with their message."""
        copy = pickle.loads(pickle.dumps(error("no")))
        assert (type(copy), copy.args) == (error, ("no",))


class TestReadResponse:
    async def test_whole_body(self):
        """The body is read whole and undecoded; content type and Retry-After are kept."""
        headers = {"Content-Type": "a/b", "Retry-After": "9", "Set-Cookie": "x", "Content-Encoding": "gzip"}
        read = await read_response(stream(b"one, ", b"two, ", b"three", status=201, headers=headers))
        assert (read.status_code, read.content, read.request.url) == (201, b"one, two, three", URL)
        assert dict(read.headers) == {"content-type": "a/b", "retry-after": "9", "content-length": "15"}

    async def test_size_limit(self, monkeypatch):
        """A body of the maximal size is read, and a larger one raises an error."""
        monkeypatch.setattr(responses, "MAX_RESPONSE_BYTES", 10)
        assert (await read_response(stream(b"x" * 10))).headers.get("Content-Type") is None
        with pytest.raises(InvalidResponse, match=f"{URL} responds with more than 10 bytes"):
            await read_response(stream(b"x" * 11))

    @pytest.mark.parametrize(
        "headers",
        [
            [(b"Content-Type", b"text/html; x=\xe9")],
            [(b"Retry-After", b"Mon, 01 Jan 99999999999999999999 00:00:00 GMT")],
            [(b"Retry-After", b"\xff\xfe")],
        ],
    )
    @pytest.mark.parametrize("status", [429, 502])
    async def test_odd_headers(self, headers, status):
        """Invalid headers of a gateway leave its error retryable."""
        assert raised(await read_response(stream(b"<html>", status=status, headers=headers))).retryable


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("3", 3),
        ("Thu, 01 Jan 1970 00:00:09 GMT", 5),
        ("Thu, 01 Jan 1970 00:00:01 GMT", 0),
        ("soon", None),
        ("-5", None),
        ("²", None),
        (None, None),
    ],
)
def test_parse_retry_after(header, seconds):
    """Retry-After holds seconds or a date; anything else is ignored."""
    assert parse_retry_after(header, now_s=4) == seconds


def scores(**rewards):
    rewards = {name: RewardScores(scores=values, revision=f"{name}:1") for name, values in rewards.items()}
    return ScoreResponse(rewards=rewards, request_id="1", timing=Timing(queue_ms=0, compute_ms=0))


def parse(content, *request):
    content = content if isinstance(content, str) else content.model_dump_json()
    return responses.score_parser(*request)(response(200, content, "application/json"))


class TestParsers:
    def test_service_info(self):
        """A page instead of the service's description is no response of a reward service."""
        with pytest.raises(NotARewardService, match=f"{URL} responded with 200"):
            responses.parse_service_info(response(200, "<html>"))

    def test_scores(self):
        """Scores that match the request are returned."""
        assert parse(scores(a=[1.0, 2.0]), 2, ["a"], {"a": "a:1", "b": "b:9"}).rewards["a"].scores == [1.0, 2.0]
        assert set(parse(scores(a=[1.0], b=[2.0]), 1).rewards) == {"a", "b"}

    @pytest.mark.parametrize(
        ("content", "request_", "message"),
        [
            ('{"rewards": 3}', (1,), "violates the wire format: rewards: Input should be"),
            (scores(a=[1.0]), (1, ["a", "c", "b"]), "returned no scores of b, c$"),
            (scores(a=[1.0], b=[1.0, 2.0]), (1, ["a", "b"]), "returned 2 scores of b for 1 completions$"),
        ],
    )
    def test_mismatch(self, content, request_, message):
        """A response that does not match its request is invalid."""
        with pytest.raises(InvalidResponse, match=f"^{URL} {message}"):
            parse(content, *request_)

    @pytest.mark.parametrize("score", [1e39, -1.1e18])
    def test_float32_range(self, score):
        """A score that is infinite in float32 is invalid."""
        with pytest.raises(InvalidResponse, match="scores"):
            parse(scores(a=[1.0]).model_dump_json().replace("[1.0]", f"[{score}]"), 1)

    def test_other_revision(self):
        """Scores of another revision than the pinned one raise an error that names both."""
        with pytest.raises(RevisionChanged, match="'a' changed during the run: it began with a:0 and is now a:1"):
            parse(scores(a=[1.0]), 1, ["a"], {"a": "a:0"})


def part(values, *, failed=(), truncated=(), details=None, revision="1"):
    errors = {str(index): ItemError(code="c", message="m") for index in failed}
    reward = RewardScores(scores=values, revision=revision, errors=errors, truncated=list(truncated), details=details)
    return ScoreResponse(rewards={"a": reward}, request_id="1", timing=Timing(queue_ms=0, compute_ms=0))


class TestMerge:
    def test_items(self):
        """Errors and truncation stay with their items."""
        parts = [
            part([1.0, None], failed=[1]),
            part([2.0], truncated=[0]),
            part([None, 3.0], failed=[0], truncated=[1]),
        ]
        merged = merge(parts).rewards["a"]
        assert merged.scores == [1.0, None, 2.0, None, 3.0]
        assert (set(merged.errors), merged.truncated, merged.details) == ({"1", "3"}, [2, 4], None)

    def test_details(self):
        """Details are merged in order."""
        merged = merge([part([1.0], details=[{"x": 1}]), part([2.0], details=[None])])
        assert merged.rewards["a"].details == [{"x": 1}, None]

    def test_logged_values(self):
        """A metric is the mean over all completions; an extra column has one value for each."""
        first, second = part([1.0]), part([2.0, 3.0])
        first.rewards["a"].metrics, second.rewards["a"].metrics = {"m": 1.0}, {"m": 4.0}
        second.rewards["a"].extra = {"x": ["b", "c"]}
        merged = merge([first, second]).rewards["a"]
        assert (merged.metrics, merged.extra) == ({"m": 3.0}, {"x": [None, "b", "c"]})

    def test_mixed_revisions(self):
        """Chunks of several revisions are not merged."""
        with pytest.raises(MixedRevisions, match=r"were scored by several revisions of a: new, old$"):
            merge([part([1.0], revision="old"), part([1.0], revision="new")])

    @pytest.mark.parametrize("names", [("a", "b"), ("ab", "a"), ("a", "ab")])
    def test_mixed_rewards(self, names):
        """Chunks scored by different rewards are not merged."""
        rewards = " or ".join(sorted(", ".join(each) for each in names))
        with pytest.raises(MixedRevisions, match=f"were scored by different rewards: {rewards}$"):
            merge([scores(**{name: [1.0] for name in each}) for each in names])

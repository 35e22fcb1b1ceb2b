import asyncio
import json
import math
import socket
import threading

import httpx
import pytest

from remote_rewards import RewardClient
from reward_service.app import create_app
from reward_service.rewards.base import Reward, Scores
from reward_service.settings import Settings
from shared.schemas import Problem, RewardInfo
from tests.conftest import RULES, cases, running_service, spelled_out, wait_for

JSON = {"Content-Type": "application/json"}


def post(url, body, **headers):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(f"{url}/v1/score", content=content, headers={**JSON, **headers}, timeout=30)


def check_problem(response, status, code):
    assert response.headers["Content-Type"] == "application/problem+json"
    document = Problem.model_validate_json(response.content)
    assert (response.status_code, document.status, document.code) == (status, status, code)
    assert response.headers["X-Request-Id"] == document.request_id
    return document


def test_documented_example(rules_url):
    """The documented example gets the documented scores."""
    body = {
        "completions": ["Sure: it is yellow banana"],
        "prompts": ["What colour is it?"],
        "columns": {"answer": ["yellow"]},
        "rewards": ["banana"],
        "details": True,
    }
    response = post(rules_url, body).json()
    reward = response["rewards"]["banana"]
    assert reward["scores"] == [1.975]
    assert reward["revision"].startswith("rule:")
    assert (reward["errors"], reward["truncated"]) == ({}, [])
    parts = {
        "starts_with_sure": 1.0,
        "ends_with_banana": 1.0,
        "missing_banana": 0.0,
        "length_penalty": -0.025,
    }
    assert reward["details"] == [parts]
    assert set(response["timing"]) == {"queue_ms", "compute_ms"}


def pinned_score(url, pin, path="/v1/score"):
    body = {"completions": ["Sure: banana"], "rewards": ["banana"], "query": ["Sure: banana"]}
    del body["query" if path == "/v1/score" else "completions"]
    return httpx.post(url + path, json=body, headers={"X-Reward-Revision": pin}, timeout=30)


def test_pinned_request(rules_url):
    """A request pinned to the revision served is scored and counted; one pinned to another is refused unscored."""
    info = httpx.get(f"{rules_url}/v1/rewards").json()["rewards"]
    revision = next(reward["revision"] for reward in info if reward["name"] == "banana")
    counted = f'reward_pinned_requests_total{{revision="{revision}",reward="banana"}}'
    assert pinned_score(rules_url, f"banana={revision}, elsewhere=rule:1").is_success
    before, texts = metric(rules_url, counted), metric(rules_url, 'reward_texts_total{reward="banana"}')
    assert pinned_score(rules_url, f"banana={revision}").is_success
    assert metric(rules_url, counted) == before + 1
    answer = pinned_score(rules_url, "banana=rule:of-yesterday")
    problem = check_problem(answer, 412, "other_revision")
    assert f"it began with rule:of-yesterday and is now {revision}" in problem.detail
    assert (problem.retryable, answer.headers["Connection"]) == (False, "close"), "a URL may lead to several replicas"
    assert metric(rules_url, 'reward_texts_total{reward="banana"}') == texts + 1
    assert pinned_score(rules_url, "banana=rule:of-yesterday", "/get_reward").status_code == 412


def metric(url, series):
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(series))


def test_malformed_pin(rules_url):
    """A pin that cannot be read is an error: the request would be scored by any revision."""
    check_problem(pinned_score(rules_url, "banana"), 422, "invalid")


def test_banana_table(rules_url):
    """The table of hand-made cases holds over HTTP."""
    table = [case.values[0] for case in cases("banana_cases.jsonl")]
    with RewardClient(rules_url) as client:
        response = client.score([spelled_out(case, "completion") for case in table], rewards=["banana"], details=True)
    reward = response.rewards["banana"]
    assert reward.scores == pytest.approx([case["score"] for case in table], abs=1e-9)
    assert reward.details == [pytest.approx(case["details"], abs=1e-9) for case in table]


def test_defaults(rules_url):
    """A request that names no rewards gets the default ones, without details."""
    response = post(rules_url, {"completions": ["banana"]}).json()
    assert list(response["rewards"]) == ["banana"]
    assert response["rewards"]["banana"]["details"] is None


def test_empty_request(rules_url):
    """A request without completions gets an empty list of scores."""
    assert post(rules_url, {"completions": []}).json()["rewards"]["banana"]["scores"] == []


def test_composite(rules_url):
    """A composite sums, gates and clips its parts."""
    texts = ["Sure: banana", "Sure: rain falls from grey clouds banana"]
    rewards = post(rules_url, {"completions": texts, "rewards": ["banana_answer", "gated"]}).json()["rewards"]
    assert rewards["banana_answer"]["scores"] == pytest.approx([1.99, 1.965 + 0.8])
    assert rewards["gated"]["scores"] == pytest.approx([-3.0, 2.0])


@pytest.mark.parametrize(
    ("body", "status", "code", "message"),
    [
        (b"{oops", 400, "bad_json", "not JSON"),
        (b"", 400, "bad_json", "not JSON"),
        (b'{"completions": ["\xff"]}', 400, "bad_json", "JSON"),
        (b'{"completions": [NaN]}', 422, "invalid", "completions.0"),
        ([], 422, "invalid", "object"),
        ({}, 422, "invalid", "completions: Field required"),
        ({"completion": ["a"]}, 422, "invalid", "did you mean 'completions'"),
        ({"completions": "a"}, 422, "invalid", "completions"),
        ({"completions": [1]}, 422, "invalid", "completions.0"),
        ({"completions": ["a"], "prompts": []}, 422, "invalid", "prompts has 0 items, completions has 1"),
        ({"completions": ["a"], "columns": {"x": []}}, 422, "invalid", "columns.x has 0 items"),
        ({"completions": [[{"content": "no role"}]]}, 422, "invalid", "role"),
        ({"completions": ["a"], "rewards": ["bananna"]}, 404, "unknown_reward", "did you mean 'banana'"),
        ({"completions": ["a"] * 2000}, 413, "too_large", "1024 texts"),
        ({"completions": ["a" * 3_000_000]}, 413, "too_large", "2000000 bytes"),
    ],
)
def test_wrong_request(rules_url, body, status, code, message):
    """A wrong request gets a problem document that says what to correct."""
    assert message in check_problem(post(rules_url, body), status, code).detail


def test_chunked_body_limit(rules_url):
    """The body limit also holds for a chunked body, whose length is not declared."""
    chunks = (b" " * 100_000 for _ in range(30))
    response = httpx.post(f"{rules_url}/v1/score", content=chunks, headers=JSON)
    check_problem(response, 413, "too_large")


@pytest.mark.parametrize("headers", [{"Content-Type": "text/plain"}, {"Content-Encoding": "gzip"}])
def test_content_type_and_encoding(rules_url, headers):
    """Only uncompressed JSON is accepted."""
    check_problem(post(rules_url, {"completions": ["a"]}, **headers), 415, "bad_content_type")


def test_unknown_path_and_method(rules_url):
    """An unknown path and a wrong method are answered with problem documents, too."""
    check_problem(httpx.get(f"{rules_url}/v1/nothing"), 404, "http")
    check_problem(httpx.get(f"{rules_url}/v1/score"), 405, "http")


def test_request_id(rules_url):
    """A plain request id of the client is kept, any other is replaced."""
    assert post(rules_url, {"completions": ["a"]}, **{"X-Request-Id": "run-7.a"}).json()["request_id"] == "run-7.a"
    assert post(rules_url, {"completions": ["a"]}, **{"X-Request-Id": "x y"}).json()["request_id"] != "x y"


def test_service_info(rules_url):
    """`GET /v1/rewards` lists the rewards, each with its revision."""
    with RewardClient(rules_url) as client:
        info = client.info()
    assert info.service == "remote-rewards"
    assert [reward.name for reward in info.rewards] == ["banana", "content_words", "banana_answer", "gated"]
    assert info.default == ["banana"]
    assert len({reward.revision for reward in info.rewards}) == 4


@pytest.mark.parametrize(
    "path", ["/health", "/health/live", "/health/ready", "/", "/docs", "/openapi.json", "/metrics"]
)
def test_get_paths(rules_url, path):
    """Every GET path of the service answers 200."""
    assert httpx.get(rules_url + path).status_code == 200


def test_metrics_count_texts(rules_url):
    """The metrics count scored texts."""
    post(rules_url, {"completions": ["a", "b", "c"], "rewards": ["gated"]})
    lines = httpx.get(f"{rules_url}/metrics").text.splitlines()
    count = next(line for line in lines if line.startswith('reward_texts_total{reward="gated"}'))
    assert float(count.split()[-1]) >= 3


async def test_probes_are_not_rejections():
    """A failed readiness probe does not count as a rejected request."""
    unloaded = httpx.ASGITransport(create_app(Settings(config=RULES)))
    async with httpx.AsyncClient(transport=unloaded, base_url="http://service") as client:
        assert (await client.get("/health/ready")).status_code == 503
        assert (await client.post("/v1/score", json={"completions": ["a"]})).status_code == 503
        assert 'reward_rejected_total{reason="not_ready"} 1.0' in (await client.get("/metrics")).text


@pytest.mark.parametrize("completions", [["a"] * 1025, ["a" * 2_000_001]], ids=["texts", "bytes"])
def test_metrics_count_rejections(rules_url, completions):
    """The metrics count rejected requests by error code."""

    def rejected():
        name = 'reward_rejected_total{reason="too_large"}'
        lines = httpx.get(f"{rules_url}/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    before = rejected()
    check_problem(post(rules_url, {"completions": completions}), 413, "too_large")
    assert rejected() == before + 1


def test_api_keys():
    """With API keys, scoring needs one of them; readiness does not."""
    key = "a-key-of-16-chars"
    with running_service(Settings(config=RULES, api_keys=["another-key-of-16", key])) as url:
        response = post(url, {"completions": ["a"]}, Authorization="Bearer wrong-key-of-16-ch")
        check_problem(response, 401, "unauthenticated")
        assert response.headers["WWW-Authenticate"] == "Bearer"
        assert post(url, {"completions": ["a"]}, Authorization=f"Bearer {key}").status_code == 200
        assert httpx.get(f"{url}/health/ready").status_code == 200
        with RewardClient(url, key) as client:
            assert client.score(["banana"]).rewards["banana"].scores == [0.995]


class NonFinite(Reward):
    """A reward with scores that are not finite in float32."""

    info = RewardInfo(name="odd", kind="function", description="", revision="1")
    accepts_canary = False

    async def score(self, items):
        return Scores(scores=[1.0, math.inf, math.nan, 1e39, -1e18][: len(items)], details=[None] * len(items))


def test_non_finite_scores():
    """A score that is not finite in float32 becomes null with a reason."""
    with running_service(rewards={"odd": NonFinite()}) as url:
        reward = post(url, {"completions": ["a", "b", "c", "d", "e"]}).json()["rewards"]["odd"]
        assert 'reward_texts_total{reward="odd"} 2.0' in httpx.get(f"{url}/metrics").text  # the others have no score
    assert reward["scores"] == [1.0, None, None, None, -1e18]  # 1e39 is infinite in the policy's 32 bits
    assert {error["code"] for error in reward["errors"].values()} == {"not_finite"}


def test_concurrent_clients(rules_url):
    """Concurrent clients each get their own scores."""
    wrong = []

    def call(caller):
        with RewardClient(rules_url) as client:
            for round_ in range(5):
                words = [caller + round_ + i for i in range(8)]
                scores = client.score(["word " * count + "banana" for count in words]).rewards["banana"].scores
                expected = [1.0 - 0.005 * (count + 1) for count in words]
                if scores != pytest.approx(expected):
                    wrong.append((caller, round_))

    threads = [threading.Thread(target=call, args=(caller,)) for caller in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


class Endless(Reward):
    """A reward that never returns; it can only be cancelled."""

    info = RewardInfo(name="endless", kind="function", description="", revision="1")
    accepts_canary = False

    def __init__(self):
        self.entered, self.cancelled = threading.Event(), threading.Event()

    async def score(self, items):
        self.entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()


@pytest.mark.parametrize("requests", [1, 2], ids=["one request", "one behind it"])
def test_disconnect_cancels_scoring(requests):
    """The work of a client that disconnects is cancelled, also behind another request."""
    reward = Endless()
    with running_service(rewards={"endless": reward}) as url:
        host, port = url.removeprefix("http://").split(":")
        body = b'{"completions": ["a"]}'
        head = f"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        with socket.create_connection((host, int(port))) as caller:
            caller.sendall((f"{head}\r\n\r\n".encode() + body) * requests)
            assert reward.entered.wait(10)
        assert reward.cancelled.wait(10)
        wait_for(lambda: 'code="499"' in httpx.get(f"{url}/metrics").text)


@pytest.mark.parametrize("half", [r"\ud83d", r"\uDE00", r"\ud83d\ud83d", r"\\\ud83dx"])
def test_lone_surrogate(rules_url, half):
    """Half of a surrogate pair, which JSON allows, is read as U+FFFD and costs no other text."""
    body = f'{{"completions": ["Sure: a banana", "Sure: {half} banana", "\\ud83d\\ude00"], "rewards": ["banana"]}}'
    response = httpx.post(f"{rules_url}/v1/score", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 200
    assert None not in response.json()["rewards"]["banana"]["scores"]

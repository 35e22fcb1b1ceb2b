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


def problem(response, status, code):
    assert response.headers["Content-Type"] == "application/problem+json"
    found = Problem.model_validate_json(response.content)
    assert (response.status_code, found.status, found.code) == (status, status, code)
    assert response.headers["X-Request-Id"] == found.request_id
    return found


def test_the_example_of_the_contract_gives_the_contracts_scores(rules_url):
    body = {
        "completions": ["Sure: it is yellow banana"],
        "prompts": ["What colour is it?"],
        "columns": {"answer": ["yellow"]},
        "rewards": ["banana"],
        "details": True,
    }
    answer = post(rules_url, body).json()
    reward = answer["rewards"]["banana"]
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
    assert set(answer["timing"]) == {"queue_ms", "compute_ms"}


def test_the_banana_table_holds_over_http(rules_url):
    table = [case.values[0] for case in cases("banana_cases.jsonl")]
    with RewardClient(rules_url) as client:
        response = client.score([spelled_out(case, "completion") for case in table], rewards=["banana"], details=True)
    reward = response.rewards["banana"]
    assert reward.scores == pytest.approx([case["score"] for case in table], abs=1e-9)
    assert reward.details == [pytest.approx(case["details"], abs=1e-9) for case in table]


def test_without_names_the_default_scores_and_without_details_there_are_none(rules_url):
    answer = post(rules_url, {"completions": ["banana"]}).json()
    assert list(answer["rewards"]) == ["banana"]
    assert answer["rewards"]["banana"]["details"] is None


def test_no_texts_give_no_scores(rules_url):
    assert post(rules_url, {"completions": []}).json()["rewards"]["banana"]["scores"] == []


def test_a_composite_sums_gates_and_clips(rules_url):
    texts = ["Sure: banana", "Sure: rain falls from grey clouds banana"]
    answer = post(rules_url, {"completions": texts, "rewards": ["banana_answer", "gated"]}).json()["rewards"]
    assert answer["banana_answer"]["scores"] == pytest.approx([1.99, 1.965 + 0.8])
    assert answer["gated"]["scores"] == pytest.approx([-3.0, 2.0])


@pytest.mark.parametrize(
    ("body", "status", "code", "says"),
    [
        (b"{oops", 400, "bad_json", "not JSON"),
        (b"", 400, "bad_json", "not JSON"),
        (b'{"completions": ["\xff"]}', 400, "bad_json", "JSON"),
        (b'{"completions": ["a\\ud800b"]}', 400, "bad_json", "JSON"),
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
def test_a_wrong_request_gets_a_problem_that_says_what_to_do(rules_url, body, status, code, says):
    assert says in problem(post(rules_url, body), status, code).detail


def test_a_body_that_grows_too_large_on_the_way_is_refused(rules_url):
    chunks = (b" " * 100_000 for _ in range(30))
    response = httpx.post(f"{rules_url}/v1/score", content=chunks, headers=JSON)
    problem(response, 413, "too_large")


@pytest.mark.parametrize("headers", [{"Content-Type": "text/plain"}, {"Content-Encoding": "gzip"}])
def test_anything_but_plain_json_is_refused(rules_url, headers):
    problem(post(rules_url, {"completions": ["a"]}, **headers), 415, "bad_content_type")


def test_an_unknown_path_and_a_wrong_method_are_problems_too(rules_url):
    problem(httpx.get(f"{rules_url}/v1/nothing"), 404, "http")
    problem(httpx.get(f"{rules_url}/v1/score"), 405, "http")


def test_the_callers_request_id_comes_back_if_it_is_a_plain_one(rules_url):
    assert post(rules_url, {"completions": ["a"]}, **{"X-Request-Id": "run-7.a"}).json()["request_id"] == "run-7.a"
    assert post(rules_url, {"completions": ["a"]}, **{"X-Request-Id": "x y"}).json()["request_id"] != "x y"


def test_the_rewards_are_listed_with_what_made_them(rules_url):
    with RewardClient(rules_url) as client:
        info = client.info()
    assert info.service == "remote-rewards"
    assert [reward.name for reward in info.rewards] == ["banana", "content_words", "banana_answer", "gated"]
    assert info.default == ["banana"]
    assert len({reward.revision for reward in info.rewards}) == 4


@pytest.mark.parametrize(
    "path", ["/health", "/health/live", "/health/ready", "/", "/docs", "/openapi.json", "/metrics"]
)
def test_every_page_answers(rules_url, path):
    assert httpx.get(rules_url + path).status_code == 200


def test_the_metrics_count_what_was_scored(rules_url):
    post(rules_url, {"completions": ["a", "b", "c"], "rewards": ["gated"]})
    lines = httpx.get(f"{rules_url}/metrics").text.splitlines()
    count = next(line for line in lines if line.startswith('reward_texts_total{reward="gated"}'))
    assert float(count.split()[-1]) >= 3


async def test_who_asks_whether_it_is_ready_is_not_turned_away():
    never_started = httpx.ASGITransport(create_app(Settings(config=RULES)))
    async with httpx.AsyncClient(transport=never_started, base_url="http://service") as client:
        assert (await client.get("/health/ready")).status_code == 503
        assert (await client.post("/v1/score", json={"completions": ["a"]})).status_code == 503
        assert 'reward_rejected_total{reason="loading"} 1.0' in (await client.get("/metrics")).text


@pytest.mark.parametrize("completions", [["a"] * 1025, ["a" * 2_000_001]], ids=["texts", "bytes"])
def test_the_metrics_count_what_was_turned_away(rules_url, completions):
    def refused():
        name = 'reward_rejected_total{reason="too_large"}'
        lines = httpx.get(f"{rules_url}/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    before = refused()
    problem(post(rules_url, {"completions": completions}), 413, "too_large")
    assert refused() == before + 1


def test_with_keys_only_their_holders_may_score():
    key = "a-key-of-16-chars"
    with running_service(Settings(config=RULES, api_keys=["another-key-of-16", key])) as url:
        refused = post(url, {"completions": ["a"]}, Authorization="Bearer wrong-key-of-16-ch")
        problem(refused, 401, "unauthenticated")
        assert refused.headers["WWW-Authenticate"] == "Bearer"
        assert post(url, {"completions": ["a"]}, Authorization=f"Bearer {key}").status_code == 200
        assert httpx.get(f"{url}/health/ready").status_code == 200
        with RewardClient(url, key) as client:
            assert client.score(["banana"]).rewards["banana"].scores == [0.995]


class Odd(Reward):
    """A reward that gives scores no policy may learn from."""

    info = RewardInfo(name="odd", kind="function", description="", revision="1")
    accepts_canary = False

    async def score(self, items):
        return Scores(scores=[1.0, math.inf, math.nan, 1e39, -1e18][: len(items)], details=[None] * len(items))


def test_a_score_that_is_no_number_becomes_null_with_a_reason():
    with running_service(rewards={"odd": Odd()}) as url:
        reward = post(url, {"completions": ["a", "b", "c", "d", "e"]}).json()["rewards"]["odd"]
        assert 'reward_texts_total{reward="odd"} 2.0' in httpx.get(f"{url}/metrics").text  # the others have no score
    assert reward["scores"] == [1.0, None, None, None, -1e18]  # 1e39 is infinite in the policy's 32 bits
    assert {error["code"] for error in reward["errors"].values()} == {"not_finite"}


def test_many_callers_at_once_each_get_their_own_scores(rules_url):
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
    """A reward that ends only when its caller has gone."""

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
def test_work_of_a_caller_that_hangs_up_is_given_up(requests):
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

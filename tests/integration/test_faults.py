"""Whatever is done to an answer on its way: the right scores come, or an error. Never another number."""

import asyncio
import time

import pytest

from remote_rewards import RewardClient
from shared.errors import InvalidResponse, NotARewardService, RewardError, ServiceUnreachable
from tests import faults

TEXTS = ["Sure: banana", "no", "Sure: it is yellow banana"]
RIGHT = [1.99, -0.505, 1.975]
MENDED = {
    "reset before a byte": faults.reset_at(0),
    "reset in the head": faults.reset_at(20),
    "reset in the body": faults.reset_at(300),
    "closed before a byte": faults.closed_at(0),
    "closed in the head": faults.closed_at(20),
    "closed in the body": faults.closed_at(300),
    "a longer body announced": faults.declared(50),
    "502 of a proxy": faults.status(502),
    "503 of a proxy": faults.status(503, "Retry-After: 0"),
    "504 of a proxy": faults.status(504, "Retry-After: -5"),
    "500 without a word": faults.status(500),
    "429 of a proxy": faults.status(429, "Retry-After: 0"),
    "408 of a proxy": faults.status(408),
    "408 of ours": faults.status(
        408,
        kind="application/problem+json",
        body='{"title": "t", "status": 408, "detail": "d", "code": "too_slow", "request_id": "1", "retryable": true}',
    ),
}
LIES = {
    "a shorter body announced": faults.declared(-50),
    "garbage": faults.body("{oops"),
    "a page": faults.status(200),
    "one score of three": faults.rewritten(lambda reward: reward["scores"].__delitem__(slice(1, None))),
    "one score too many": faults.rewritten(lambda reward: reward["scores"].append(1.0)),
    "NaN": faults.rewritten(lambda reward: reward["scores"].__setitem__(1, float("nan"))),
    "infinity": faults.rewritten(lambda reward: reward["scores"].__setitem__(1, float("inf"))),
    "a word for a number": faults.rewritten(lambda reward: reward["scores"].__setitem__(1, "high")),
    "a number in quotes": faults.rewritten(lambda reward: reward["scores"].__setitem__(1, "-0.505")),
    "null without a reason": faults.rewritten(lambda reward: reward["scores"].__setitem__(1, None)),
    "a reason for what has a score": faults.rewritten(
        lambda reward: reward["errors"].update({"0": {"code": "x", "message": "y"}})
    ),
    "1e400": faults.replaced("1.99", "1e400"),
    "another reward": faults.replaced("banana", "apple"),
}


NOT_OURS = {
    "a login elsewhere": faults.status(302, "Location: http://127.0.0.1:1/login"),
    "nothing found": faults.status(404),
}


def score(url, timeout_s=20.0, **kwargs):
    with RewardClient(url, timeout_s=timeout_s, **kwargs) as client:
        return client.score(TEXTS, rewards=["banana"]).rewards["banana"].scores


@pytest.mark.parametrize("fault", MENDED.values(), ids=MENDED)
def test_what_a_network_does_is_mended_by_asking_again(rules_url, fault):
    with faults.spoiling(rules_url, fault, fault) as (url, proxy):
        assert score(url) == pytest.approx(RIGHT)
    assert proxy.scored == 3


@pytest.mark.parametrize("fault", LIES.values(), ids=LIES)
def test_an_answer_that_is_not_what_was_asked_for_is_asked_for_again(rules_url, fault):
    with faults.spoiling(rules_url, fault) as (url, proxy):
        assert score(url) == pytest.approx(RIGHT)
    assert proxy.scored == 2


@pytest.mark.parametrize("fault", [LIES[name] for name in ("garbage", "one score of three", "NaN")])
def test_one_that_stays_wrong_is_an_error_that_says_why_never_a_score(rules_url, fault):
    with faults.spoiling(rules_url, *[fault] * 99) as (url, _), pytest.raises(ServiceUnreachable) as raised:
        score(url, timeout_s=3.0)
    assert isinstance(raised.value.__cause__, InvalidResponse)


@pytest.mark.parametrize("fault", NOT_OURS.values(), ids=NOT_OURS)
def test_what_is_no_reward_service_is_not_asked_again(rules_url, fault):
    with faults.spoiling(rules_url, fault) as (url, proxy), pytest.raises(NotARewardService):
        score(url)
    assert proxy.scored == 1


@pytest.mark.parametrize("header", ["1000000000", "Fri, 31 Dec 2100 23:59:59 GMT", "soon"])
def test_no_answer_makes_a_call_wait_past_its_deadline(rules_url, header):
    fault = faults.status(503, f"Retry-After: {header}")
    with faults.spoiling(rules_url, *[fault] * 50) as (url, _), RewardClient(url, timeout_s=1.5) as client:
        began_s = time.monotonic()
        with pytest.raises(RewardError):
            client.score(TEXTS, rewards=["banana"])
    assert time.monotonic() - began_s < 1.5 * 1.1 + 0.5


def test_what_a_call_asks_first_is_within_its_deadline(rules_url):
    with (
        faults.spoiling(rules_url, *[faults.status(503)] * 500) as (url, _),
        RewardClient(url, timeout_s=1.0) as client,
        pytest.MonkeyPatch.context() as patch,
    ):
        at_once = client._asker.ask

        async def ask(call, *args, **kwargs):
            if call.method == "GET":
                await asyncio.sleep(0.8)  # slow to say what it is
            return await at_once(call, *args, **kwargs)

        patch.setattr(client._asker, "ask", ask)
        began_s = time.monotonic()
        with pytest.raises(RewardError):
            client.score(TEXTS, rewards=["banana"])
        assert time.monotonic() - began_s < 1.5


def test_plain_http_goes_past_a_proxy_of_the_environment(rules_url, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert score(rules_url, timeout_s=5.0)


def test_an_answer_without_end_is_not_read_to_its_end(rules_url, monkeypatch):
    monkeypatch.setattr("remote_rewards.responses.MOST_BYTES", 1000)
    fault = faults.body('{"rewards": "' + "x" * 100_000 + '"}')
    with faults.spoiling(rules_url, *[fault] * 99) as (url, _), pytest.raises(RewardError, match="more than 1000 b"):
        score(url, timeout_s=3.0)


def test_a_service_that_never_answers_is_given_up(rules_url):
    def silence(answer):
        time.sleep(3)
        return answer, False

    with faults.spoiling(rules_url, *[silence] * 9) as (url, _), pytest.raises(ServiceUnreachable):
        score(url, timeout_s=1.0, attempt_timeout_s=0.3)

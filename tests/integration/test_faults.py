"""Whatever happens to a response on its way, the right scores arrive or an error; never another number."""

import time

import pytest

from remote_rewards import RewardClient
from shared.errors import InvalidResponse, NotARewardService, RewardError, ServiceUnreachable
from tests import faults

TEXTS = ["Sure: banana", "no", "Sure: it is yellow banana"]
SCORES = [1.99, -0.505, 1.975]
RETRIED = {
    "reset before a byte": faults.reset_at(0),
    "reset in the head": faults.reset_at(20),
    "reset in the body": faults.reset_at(300),
    "closed before a byte": faults.closed_at(0),
    "closed in the head": faults.closed_at(20),
    "closed in the body": faults.closed_at(300),
    "a longer body announced": faults.wrong_length(50),
    "502 of a proxy": faults.status(502),
    "503 of a proxy": faults.status(503, "Retry-After: 0"),
    "504 of a proxy": faults.status(504, "Retry-After: -5"),
    "500 without a problem document": faults.status(500),
    "429 of a proxy": faults.status(429, "Retry-After: 0"),
    "408 of a proxy": faults.status(408),
    "408 of a service": faults.status(
        408,
        kind="application/problem+json",
        body='{"title": "t", "status": 408, "detail": "d", "code": "too_slow", "request_id": "1", "retryable": true}',
    ),
}
INVALID = {
    "a shorter body announced": faults.wrong_length(-50),
    "garbage": faults.body("{oops"),
    "a page": faults.status(200),
    "one score of three": faults.rewritten(lambda reward: reward["scores"].__delitem__(slice(1, None))),
    "one score too many": faults.rewritten(lambda reward: reward["scores"].append(1.0)),
    "NaN": faults.rewritten(lambda reward: reward["scores"].__setitem__(1, float("nan"))),
    "infinity": faults.rewritten(lambda reward: reward["scores"].__setitem__(1, float("inf"))),
    "a string": faults.rewritten(lambda reward: reward["scores"].__setitem__(1, "high")),
    "a number in quotes": faults.rewritten(lambda reward: reward["scores"].__setitem__(1, "-0.505")),
    "null without a reason": faults.rewritten(lambda reward: reward["scores"].__setitem__(1, None)),
    "a reason for what has a score": faults.rewritten(
        lambda reward: reward["errors"].update({"0": {"code": "x", "message": "y"}})
    ),
    "1e400": faults.replaced("1.99", "1e400"),
    "another reward": faults.replaced("banana", "apple"),
}


OTHER_SERVICE = {
    "a login elsewhere": faults.status(302, "Location: http://127.0.0.1:1/login"),
    "nothing found": faults.status(404),
}


def score(url, timeout_s=20.0, **options):
    with RewardClient(url, timeout_s=timeout_s, **options) as client:
        return client.score(TEXTS, rewards=["banana"]).rewards["banana"].scores


@pytest.mark.parametrize("fault", RETRIED.values(), ids=RETRIED)
def test_network_fault(rules_url, fault):
    """A fault of the network is retried."""
    with faults.fault_proxy(rules_url, fault, fault) as (url, proxy):
        assert score(url) == pytest.approx(SCORES)
    assert proxy.scored == 3


@pytest.mark.parametrize("fault", INVALID.values(), ids=INVALID)
def test_invalid_response(rules_url, fault):
    """A response that does not match its request is retried."""
    with faults.fault_proxy(rules_url, fault) as (url, proxy):
        assert score(url) == pytest.approx(SCORES)
    assert proxy.scored == 2


@pytest.mark.parametrize("fault", [INVALID[name] for name in ("garbage", "one score of three", "NaN")])
def test_always_invalid(rules_url, fault):
    """A response that stays invalid raises an error that says why, and never gives a score."""
    with faults.fault_proxy(rules_url, *[fault] * 99) as (url, _), pytest.raises(ServiceUnreachable) as error:
        score(url, timeout_s=3.0)
    assert isinstance(error.value.__cause__, InvalidResponse)


@pytest.mark.parametrize("fault", OTHER_SERVICE.values(), ids=OTHER_SERVICE)
def test_other_service(rules_url, fault):
    """A response of another service is not retried."""
    with faults.fault_proxy(rules_url, fault) as (url, proxy), pytest.raises(NotARewardService):
        score(url)
    assert proxy.scored == 1


@pytest.mark.parametrize("fault", OTHER_SERVICE.values(), ids=OTHER_SERVICE)
def test_proxy_without_routes(rules_url, fault):
    """A response of another service is retried once the service has responded: its proxy has lost it for a moment."""
    with (
        faults.fault_proxy(rules_url, schedule=iter([None, fault, fault])) as (url, proxy),
        RewardClient(url) as client,
    ):
        for _ in range(2):
            assert client.score(TEXTS, rewards=["banana"]).rewards["banana"].scores == pytest.approx(SCORES)
    assert proxy.scored == 4


@pytest.mark.parametrize("fault", OTHER_SERVICE.values(), ids=OTHER_SERVICE)
def test_other_service_beside(rules_url, fault):
    """A new client that meets another service at one address is responded to at the other."""
    with faults.fault_proxy(rules_url, *[fault] * 9) as (url, proxy):
        assert score([rules_url, url]) == pytest.approx(SCORES)  # the first one tells the limits, the other is next
    assert proxy.scored == 1


@pytest.mark.parametrize("header", ["1000000000", "Fri, 31 Dec 2100 23:59:59 GMT", "soon"])
def test_retry_after_and_deadline(rules_url, header):
    """No Retry-After makes a call wait past its deadline."""
    fault = faults.status(503, f"Retry-After: {header}")
    with faults.fault_proxy(rules_url, *[fault] * 50) as (url, _), RewardClient(url, timeout_s=1.5) as client:
        started_s = time.monotonic()
        with pytest.raises(RewardError):
            client.score(TEXTS, rewards=["banana"])
    assert time.monotonic() - started_s < 1.5 * 1.1 + 0.5


def test_no_proxy_for_http(rules_url, monkeypatch):
    """Plain HTTP does not use a proxy of the environment."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert score(rules_url, timeout_s=5.0)


def test_huge_response(rules_url, monkeypatch):
    """A response over the maximal size is not read to its end."""
    monkeypatch.setattr("remote_rewards.responses.MAX_RESPONSE_BYTES", 1000)
    fault = faults.body('{"rewards": "' + "x" * 100_000 + '"}')
    with faults.fault_proxy(rules_url, *[fault] * 99) as (url, _), pytest.raises(RewardError, match="more than 1000 b"):
        score(url, timeout_s=3.0)


def test_silent_service(rules_url):
    """A service that never responds is given up."""

    def silence(answer):
        time.sleep(3)
        return answer, False

    with faults.fault_proxy(rules_url, *[silence] * 9) as (url, _), pytest.raises(ServiceUnreachable):
        score(url, timeout_s=1.0, attempt_timeout_s=0.3)

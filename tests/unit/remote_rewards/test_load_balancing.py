"""Choosing endpoints, and ejecting them."""

from functools import partial

import pytest

from remote_rewards import load_balancing
from remote_rewards.load_balancing import Endpoint, any_available, next_available_in_s, pick, replicas_for_a_call
from shared.errors import InternalServerError, ServiceUnreachable

DOWN = ServiceUnreachable("connection refused")
FAILED = InternalServerError("it responded with 500", status=500, code="failed")


class TestPick:
    def test_least_outstanding(self):
        """The endpoint with the fewest outstanding calls is picked."""
        busy, idle = Endpoint("a", outstanding=3), Endpoint("b", outstanding=1)
        assert pick([busy, idle], now_s=0) is idle

    def test_load_is_relative(self):
        """Outstanding calls count relative to the concurrency limit."""
        small, large = Endpoint("a", outstanding=2), Endpoint("b", outstanding=9)
        small.limiter.set_maximum(2)
        assert pick([small, large], now_s=0) is large

    def test_round_robin(self):
        """Endpoints with the same load are picked in turn."""
        endpoints, order = [Endpoint("a"), Endpoint("b")], ""
        for now_s in range(1, 7):
            picked = pick(endpoints, now_s=now_s)
            with picked.in_flight(now_s=now_s):
                order += picked.url
        assert order == "ababab"

    def test_throttled_is_last(self):
        """A throttled endpoint is the last choice until its Retry-After has passed."""
        throttled, busy = Endpoint("a"), Endpoint("b", outstanding=9)
        throttled.record_overload(2.0, now_s=0)
        assert pick([throttled, busy], now_s=1.9) is busy
        assert pick([throttled], now_s=1.9) is throttled
        assert not any_available([throttled], now_s=1.9)
        assert pick([throttled, busy], now_s=2.0) is throttled
        assert any_available([throttled], now_s=2.0)

    def test_retry_after_is_bounded(self):
        """Without Retry-After an endpoint is not throttled, and with any at most for `MAX_RETRY_AFTER_S`."""
        endpoint = Endpoint("a")
        endpoint.record_overload(None, now_s=5)
        assert any_available([endpoint], now_s=5)
        endpoint.record_overload(3600.0, now_s=5)
        assert endpoint.throttled_until_s == 5 + load_balancing.MAX_RETRY_AFTER_S


class TestReplicasForACall:
    def test_available(self):
        """A call is spread over the replicas that are neither ejected nor throttled."""
        one, ejected, full = Endpoint("a"), Endpoint("b"), Endpoint("c")
        ejected.record_failure(DOWN, now_s=0)
        full.record_overload(2.0, now_s=0)
        assert replicas_for_a_call([one, ejected, full], 1, 0, now_s=0.05) == 1
        assert replicas_for_a_call([one, ejected, full], 1, 0, now_s=9) == 3
        assert replicas_for_a_call([], 1, 0, now_s=9) == 1

    def test_busy(self):
        """A call is sent whole while there are two requests or more for each replica: cuts would only cost."""
        assert replicas_for_a_call([Endpoint("a"), Endpoint("b")], 1, 3, now_s=0) == 2
        assert replicas_for_a_call([Endpoint("a"), Endpoint("b")], 1, 4, now_s=0) == 1

    def test_told(self):
        """One URL may stand for as many replicas as the service tells."""
        assert replicas_for_a_call([Endpoint("a")], 4, 3, now_s=0) == 4


class TestEjection:
    def test_ejected_and_returned(self):
        """A failing endpoint is ejected for a while, and returns fully with a success."""
        first, second = Endpoint("a"), Endpoint("b", outstanding=5)
        first.record_failure(DOWN, now_s=0)
        assert pick([first, second], now_s=0.05) is second
        assert pick([first, second], now_s=0.1) is first
        assert first.last_error is DOWN
        first.record_success()
        assert first == Endpoint("a")

    def test_one_probe(self):
        """After the ejection a single call probes the endpoint."""
        endpoint = Endpoint("a")
        endpoint.record_failure(DOWN, now_s=0)
        assert pick([endpoint], now_s=0.05) is None
        assert pick([endpoint], now_s=1) is endpoint
        with endpoint.in_flight(now_s=1):
            assert pick([endpoint], now_s=1) is None
            endpoint.record_success()
            assert pick([endpoint], now_s=1) is endpoint

    def test_earlier_calls_are_no_probe(self):
        """Calls in flight since before the failure do not prevent a probe."""
        endpoint = Endpoint("a", outstanding=3)
        endpoint.record_failure(DOWN, now_s=0)
        assert pick([endpoint], now_s=1) is endpoint

    def test_not_available_while_ejected(self):
        """An ejected endpoint is not available at once."""
        endpoint = Endpoint("a")
        endpoint.record_failure(DOWN, now_s=0)
        assert [any_available([endpoint], now_s=now_s) for now_s in (0.05, 0.1)] == [False, True]

    def test_doubles(self):
        """Each consecutive failure doubles the ejection up to its maximum, however many there are."""
        endpoint, until_s = Endpoint("a"), []
        for _ in range(1100):
            endpoint.record_failure(DOWN, now_s=0)
            until_s.append(endpoint.ejected_until_s)
        assert until_s[:6] == [0.1, 0.2, 0.4, 0.8, 1.5, 1.5]
        assert until_s[-1] == 1.5

    def test_next_available(self):
        """A call waits until the first ejection ends, and at least 20 ms."""
        one, other = Endpoint("a"), Endpoint("b")
        for endpoint in (one, other, other):
            endpoint.record_failure(DOWN, now_s=0)
        assert next_available_in_s([one, other], now_s=0) == 0.1
        assert next_available_in_s([one, other], now_s=9) == 0.02


def give_up_s(*endpoints, started_s=0.0):
    return load_balancing.give_up_s(endpoints, started_s=started_s, deadline_s=300.0)


class TestGiveUp:
    def test_all_fail(self):
        """A call ends at its deadline, or 20 s after all endpoints started to respond with 500."""
        one, other = Endpoint("a"), Endpoint("b")
        assert give_up_s() == give_up_s(one, other) == 300.0
        one.record_failure(FAILED, now_s=0.0)
        assert (give_up_s(one), give_up_s(one, other)) == (20.0, 300.0)
        one.record_failure(FAILED, now_s=7.0)
        other.record_failure(FAILED, now_s=9.0)
        assert (give_up_s(one), give_up_s(one, other)) == (20.0, 29.0)
        assert give_up_s(one, other, started_s=100.0) == 120.0
        assert give_up_s(one, other, started_s=290.0) == 300.0

    @pytest.mark.parametrize(
        "record",
        [
            Endpoint.record_success,
            partial(Endpoint.record_overload, retry_after_s=1.0, now_s=3.0),
            partial(Endpoint.record_failure, error=DOWN, now_s=3.0),
        ],
        ids=["success", "overload", "unreachable"],
    )
    def test_other_outcome(self, record):
        """Any other outcome ends a series of 500."""
        endpoint = Endpoint("a")
        endpoint.record_failure(FAILED, now_s=0.0)
        record(endpoint)
        assert give_up_s(endpoint) == 300.0
        endpoint.record_failure(FAILED, now_s=5.0)
        assert give_up_s(endpoint) == 25.0


async def test_throttled():
    """A URL is throttled once all of its replicas are."""
    endpoint = Endpoint("a")
    for instance in "xy":
        async with endpoint.limiter.acquire(1.0) as admission:
            admission.instance = instance
    endpoint.record_overload(2.0, "x", now_s=0)
    assert any_available([endpoint], now_s=0)
    endpoint.record_overload(3.0, "y", now_s=0)
    assert not any_available([endpoint], now_s=1)
    assert any_available([endpoint], now_s=2)

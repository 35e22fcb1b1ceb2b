"""Hedges: a second attempt beside a slow one, paid for out of the retry budget. In virtual time."""

import asyncio

import pytest

from remote_rewards.hedging import RetryBudget, hedged
from tests.unit.remote_rewards.conftest import DOWN, NEVER, A, B, C, ScriptedTransport


class TestHedging:
    def test_slow_attempt(self, send):
        """A slow attempt is also made at another replica, and the first response counts."""
        call = send({A: [9.0], B: [0.5]}, hedge_after_s=1.0)
        assert call.result == "response of http://b"
        assert [(when_s, url) for when_s, url, _ in call.network.sent] == [(0.0, A), (1.0, B)]
        assert [endpoint.outstanding for endpoint in call.sender.endpoints.endpoints] == [0, 0]

    def test_deadline(self, send):
        """Neither attempt outlasts the call."""
        call = send({A: [NEVER], B: [NEVER]}, hedge_after_s=1.0, timeout_s=5.0)
        assert max(when_s + timeout_s for when_s, _, timeout_s in call.network.sent) <= 5.0

    @pytest.mark.parametrize("script", [{A: [0.9], B: [0.5]}, {A: [9.0]}], ids=["fast", "alone"])
    def test_no_hedge(self, send, script):
        """A fast attempt is not hedged, nor one without another replica."""
        call = send(script, hedge_after_s=1.0)
        assert (call.result, len(call.network.sent)) == ("response of http://a", 1)

    def test_budget(self, send):
        """Hedges are taken from the retry budget."""
        sent = len(send({A: [3.0], B: [3.0]}, hedge_after_s=1.0, times=40).network.sent)
        assert 40 + 10 <= sent <= 40 + 10 + 0.31 * 40

    def test_spread(self, send, loop):
        """Hedges made at the same time are spread over the other replicas."""
        calls, sender = send.start({A: [9.0], B: [0.5], C: [0.5]}, 6, hedge_after_s=1.0)
        loop.run_until_complete(asyncio.wait(calls))
        assert sorted(url for when_s, url, _ in sender.transport.sent if when_s == 1.0) == [B, C]
        assert [endpoint.outstanding for endpoint in sender.endpoints.endpoints] == [0, 0, 0]


class TestHedgingByDefault:
    def test_silent_replica(self, send):
        """A replica that falls silent delays a call by a second or so, and is then probed now and then."""
        script = {A: [0.1] * 10 + [NEVER], B: [0.1]}
        call = send(script, times=200, timeout_s=300.0, hedge_after_s="auto")
        assert call.result.startswith("response of")
        assert max(call.took_s) <= 1.2
        late = [took_s for took_s in call.took_s if took_s > 0.2]
        assert len(late) <= 0.1 * len(call.took_s)

    def test_silent_for_long(self, send):
        """A silent replica never costs more than the delay, however few calls there are to earn a budget."""
        script = {A: [0.1] * 10 + [NEVER], B: [0.1]}
        sender = send.sender(ScriptedTransport(send.loop, script), [A, B], hedge_after_s="auto")
        for _ in range(100):
            started_s = send.loop.now_s
            send.loop.run_until_complete(send.call(sender, timeout_s=300.0))
            assert send.loop.now_s - started_s <= 3.2
            send.loop.run_until_complete(asyncio.sleep(30.0))

    def test_crowd_at_a_silent_replica(self, send, loop):
        """All calls in flight to a replica that falls silent are rescued within seconds."""
        calls, _ = send.start({A: [NEVER], B: [0.1]}, 32, hedge_after_s="auto")
        loop.run_until_complete(asyncio.wait(calls))
        assert {call.result() for call in calls} == {"response of http://b"}
        assert loop.now_s - 1000.0 <= 7.0

    def test_slow_is_normal(self, send):
        """Calls that take long as a rule are not hedged; few are, whatever their latencies are."""
        assert len(send({A: [8.0], B: [8.0]}, times=40, hedge_after_s="auto").network.sent) <= 40 + 3
        varied = [0.1, 0.2, 5.0] * 200
        call = send({A: list(varied), B: list(varied)}, times=300, hedge_after_s="auto")
        assert len(call.network.sent) <= 300 + 10 + 0.05 * 300

    def test_replicas_behind_one_url(self, send, loop):
        """A slow attempt is hedged at its own URL if that leads to several replicas."""
        transport = ScriptedTransport(loop, {A: [0.1, 0.1, NEVER, 0.1]}, instances={A: ["x", "y", "x"]})
        sender = send.sender(transport, [A], hedge_after_s="auto")
        calls = [loop.run_until_complete(send.call(sender)) for _ in range(3)]
        assert (calls, transport.times) == (["response of http://a"] * 3, pytest.approx([0.0, 0.1, 0.2, 1.2]))
        assert sender.endpoints.endpoints[0].consecutive_failures == 0

    def test_silent_behind_two_urls(self, send, loop):
        """If a hedge, too, reaches a silent replica, one more is made at a URL that leads to several."""
        script, instances = {A: [0.1, 0.1, NEVER, 0.1], B: [0.1, 0.1, NEVER]}, {A: ["x", "y", "x"], B: ["x", "y"]}
        transport = ScriptedTransport(loop, script, instances=instances)
        sender = send.sender(transport, [A, B], hedge_after_s="auto")
        for _ in range(5):
            started_s = loop.now_s
            loop.run_until_complete(send.call(sender))
        assert (loop.now_s - started_s, len(transport.sent)) == (pytest.approx(2.1), 7)

    def test_silent_behind_one_of_two_urls(self, send, loop):
        """If a hedge fails at another URL, one more is made at the slow one's if that leads to several replicas."""
        script = {A: [0.1, 0.1, 0.1, NEVER, 0.1], B: [DOWN]}
        transport = ScriptedTransport(loop, script, instances={A: ["x", "y", "x"]})
        sender = send.sender(transport, [A, B], hedge_after_s="auto")
        for _ in range(4):
            started_s = loop.now_s
            loop.run_until_complete(send.call(sender))
        assert loop.now_s - started_s == pytest.approx(2.1)

    def test_alone(self, send):
        """A single replica is not hedged."""
        assert len(send({A: [9.0]}, hedge_after_s="auto").network.sent) == 1


async def outcome(result, after=None):
    if after is not None:
        await after.wait()
    if isinstance(result, Exception):
        raise result
    return result


def never_called():
    raise AssertionError


def setting(event, hedge=None):
    """Return a hedge that sets an event when it is made."""

    def start():
        event.set()
        return hedge

    return start


class TestHedged:
    async def test_slow(self):
        """The hedge of a slow attempt may win."""
        assert await hedged(outcome(1, asyncio.Event()), 0.001, lambda: outcome(2)) == 2

    async def test_fast(self):
        """A fast attempt is not hedged."""
        assert await hedged(outcome(1), 10.0, never_called) == 1

    async def test_hedge_fails(self):
        """If the hedge fails, the first attempt counts."""
        late = asyncio.Event()
        assert await hedged(outcome(1, late), 0.001, setting(late, outcome(ValueError()))) == 1

    async def test_first_fails(self):
        """If the first attempt fails, the hedge counts, although both end at the same time."""
        both = asyncio.Event()
        asyncio.get_running_loop().call_later(0.01, both.set)
        assert await hedged(outcome(ValueError(), both), 0.001, lambda: outcome(2, both)) == 2

    async def test_both_fail(self):
        """If both fail, the error of the first attempt is raised."""
        late = asyncio.Event()
        with pytest.raises(KeyError):
            await hedged(outcome(KeyError(), late), 0.001, setting(late, outcome(ValueError())))

    async def test_declined(self):
        """The hedge may be declined."""
        late = asyncio.Event()
        assert await hedged(outcome(1, late), 0.001, setting(late)) == 1

    async def test_loser_has_ended(self):
        """The cancelled attempt has ended when the result is returned."""
        ended = []

        async def never():
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                ended.append(True)

        assert await hedged(never(), 0.001, lambda: outcome(2)) == 2
        assert ended == [True]


class TestRetryBudget:
    def test_ratio(self):
        """In the long run three of ten calls may be retried at once."""
        budget, retried = RetryBudget(), 0
        for _ in range(1000):
            budget.on_success()
            retried += budget.take()
        assert 300 <= retried <= 312

    def test_capacity(self):
        """A budget holds ten tokens, and a success returns 0.3."""
        budget = RetryBudget()
        assert [budget.take() for _ in range(11)] == [True] * 10 + [False]
        budget.on_success()
        assert not budget.take()
        for _ in range(100):
            budget.on_success()
        assert [budget.take() for _ in range(11)] == [True] * 10 + [False]

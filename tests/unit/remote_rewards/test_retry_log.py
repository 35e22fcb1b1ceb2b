"""What a call reports of its retries: events, log lines, and the latest retry. In virtual time."""

import asyncio
import logging

import pytest

from remote_rewards.retry_log import RetryLog
from shared.errors import NotReady, ServiceUnreachable
from tests.unit.remote_rewards.conftest import DOWN, LOADING, NAME, NEVER, A, NameServer, ScriptedTransport, gaps


class TestRetryScheduled:
    def test_each_retry(self, send):
        """Each retry is observed with its endpoint, error, number, delay and remaining time."""
        events = []
        send({A: [DOWN, LOADING, 0.0]}, on_retry=events.append)
        assert [(event.endpoint, event.attempt, event.delay_s) for event in events] == [(A, 1, 0.1), (A, 2, 0.2)]
        assert [type(event.error) for event in events] == [ServiceUnreachable, NotReady]
        assert [event.remaining_s for event in events] == pytest.approx([20.0, 19.9])

    def test_success_without_events(self, send):
        """A call without a retry emits nothing."""
        assert send({A: [0.1]}, on_retry=pytest.fail).log.last_retry is None

    def test_logged(self, send, caplog):
        """Each retry is logged as a warning with its number, delay, error and remaining time."""
        send({A: [DOWN, 0.0]})
        (record,) = caplog.records
        assert (record.name, record.levelno) == ("remote_rewards", logging.WARNING)
        assert record.getMessage() == "retry 1 in 0.1 s: connection refused; 20 s left"

    def test_last_retry(self, send, loop):
        """The log holds the latest event while a call waits, and none once an attempt has succeeded."""
        seen = []
        call = send({A: [DOWN, DOWN, 0.0]}, on_retry=seen.append)
        assert (call.log.last_retry, len(seen)) == (None, 2)
        assert send({A: [DOWN]}).log.last_retry.endpoint == A

    def test_observer_fails(self, send, caplog):
        """An error of the observer is logged and does not break the call."""

        def observer(event):
            raise ValueError("broken")

        assert send({A: [DOWN, 0.0]}, on_retry=observer).result == "response of http://a"
        assert "the on_retry observer failed" in caplog.text

    def test_death_is_seen_in_time(self, send):
        """The death of a service is observed at once, in each of two calls in a row."""
        observed_s = []
        call = send({A: [DOWN]}, times=2, on_retry=lambda event: observed_s.append(send.loop.now_s - 1000.0))
        assert observed_s[0] == 0.0
        second_s = call.took_s[0]
        assert min(when_s for when_s in observed_s if when_s > second_s) - second_s < 2.0

    def test_no_address(self, send_to_name, send):
        """A call that waits for an address reports that at once, and again after some seconds."""
        observed = []
        send_to_name(NameServer([[]]), {}, timeout_s=12.0, on_retry=observed.append)
        assert [(event.endpoint, event.attempt) for event in observed] == [(NAME, 0)] * 3
        assert [event.remaining_s for event in observed] == pytest.approx([12.0, 7.0, 2.0], abs=0.1)
        assert str(observed[0].error) == f"no address is known for {NAME}; check the name"

    def test_silent_probe(self, send, loop):
        """While a probe hangs, the waiting calls report every few seconds, all together."""
        observed_s = []
        log = RetryLog(lambda event: observed_s.append(loop.now_s - 1000.0))
        sender = send.sender(ScriptedTransport(loop, {A: [DOWN] * 8 + [NEVER]}), [A], log)
        loop.run_until_complete(asyncio.wait([send.call(sender) for _ in range(8)]))
        late_s = [when_s for when_s in observed_s if when_s > 1.0]
        assert len(late_s) == 3
        assert min(gaps(late_s)) >= 5.0

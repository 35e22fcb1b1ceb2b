"""The retry loop: attempts, delays and the errors that end it, in virtual time."""

import asyncio
import random
from dataclasses import dataclass
from functools import partial
from random import Random
from types import SimpleNamespace

import httpx
import pytest

from remote_rewards import retry
from remote_rewards.concurrency_limit import MAX_CONCURRENCY, LimiterTimeout
from remote_rewards.transport import advertised_timeout_s
from shared.errors import (
    BadRequest,
    InvalidResponse,
    NotReady,
    Overloaded,
    RevisionChanged,
    ServiceUnreachable,
    UnknownReward,
)
from tests.unit.remote_rewards.conftest import (
    DOWN,
    FAILS,
    FULL,
    LOADING,
    NEVER,
    A,
    B,
    ScriptedTransport,
    VirtualLoop,
    gaps,
)


def other_revision(response):
    raise RevisionChanged("another revision")


def other_revision_at_a(response):
    if response.text.endswith(A):
        raise RevisionChanged("another revision")
    return response.text


def test_success_at_once(send):
    """A first attempt that succeeds is the only one."""
    call = send({A: [0.1]})
    assert (call.result, call.log.retries, len(call.network.sent)) == ("response of http://a", 0, 1)


def test_attempt_timeouts_double(send):
    """Each attempt may take twice as long as the one before, up to the deadline."""
    call = send({A: [NEVER]}, attempt_timeout_s=1.0)
    assert [timeout_s for *_, timeout_s in call.network.sent][:4] == [1.0, 2.0, 4.0, 8.0]
    when_s, _, timeout_s = call.network.sent[-1]
    assert when_s + timeout_s == pytest.approx(20.0)
    assert isinstance(call.result.__cause__, ServiceUnreachable)
    assert str(call.result) == "gave up after 5 attempts within 20 s; last error: connection refused"


def test_cut_attempt_keeps_last_error(send):
    """An attempt cut short by the deadline does not replace the error before it."""
    call = send({A: [FAILS, NEVER]}, timeout_s=3.0)
    assert len(call.network.sent) == 2
    assert str(call.result) == "gave up after 2 attempts within 3 s; last error: it responded with 500"
    call = send({A: [FAILS, NEVER, DOWN, NEVER]}, timeout_s=5.0, attempt_timeout_s=1.0)
    assert str(call.result).endswith("last error: connection refused")


def test_deadline_of_a_call(send):
    """The deadline of a call bounds its attempt."""
    call = send({A: [NEVER]}, timeout_s=3.0)
    assert call.network.sent == [(0.0, A, 3.0)]
    assert str(call.result) == "gave up after 1 attempts within 3 s; last error: connection refused"


def test_not_retryable(send):
    """An error that is not retryable is raised at once."""
    call = send({A: [partial(BadRequest, "wrong", status=422, code="bad_request")]})
    assert isinstance(call.result, BadRequest)
    assert (call.log.retries, len(call.network.sent)) == (0, 1)


def test_retries_back_off(send):
    """Retries are counted, and their delays grow exponentially."""
    call = send({A: [DOWN, DOWN, DOWN, 0.0]})
    assert (call.result, call.log.retries) == ("response of http://a", 3)
    assert call.network.times == pytest.approx([0.0, 0.1, 0.3, 0.7])


def test_no_wait_past_the_deadline(send):
    """A delay that would end after the deadline is not begun."""
    call = send({A: [FULL]}, timeout_s=1.9)
    assert len(call.network.sent) == 1
    assert call.result.__cause__.retry_after_s == 2.0


def test_retry_after_is_obeyed(send):
    """An overloaded service is retried after its Retry-After."""
    assert send({A: [FULL, 0.0]}).network.times == [0.0, 2.0]


@pytest.mark.parametrize("fault", [FULL, DOWN])
def test_other_replica_at_once(send, fault):
    """After a failure another available replica is tried without delay."""
    call = send({A: [fault], B: [0.0]})
    assert call.result == "response of http://b"
    assert [(when_s, url) for when_s, url, _ in call.network.sent] == [(0.0, A), (0.0, B)]


def test_exhausted_budget_slows(send):
    """Without tokens in the retry budget, retries are delayed."""
    times = send({A: [LOADING]}, timeout_s=60.0).network.times
    assert max(gaps(times)[:2]) < 0.75 <= min(gaps(times)[10:])


def test_exhausted_budget_slows_others(send):
    """Without tokens, retries at another replica are delayed, too."""
    times = send({A: [DOWN], B: [DOWN]}, timeout_s=30.0).network.times
    assert gaps(times)[0] == 0.0
    assert min(gaps(times)[10:]) >= 0.75


def test_other_revision_is_excluded(send):
    """A replica that keeps another revision is excluded for the rest of the call."""
    call = send({A: [0.0], B: [DOWN] * 6 + [0.0]}, parse=other_revision_at_a)
    assert call.result == "response of http://b"
    assert call.took_s[0] > 4.0
    assert max(when_s for when_s, url, _ in call.network.sent if url == A) <= 2.1


def test_pool_behind_one_url(send):
    """A URL may stand for several replicas: a refused call returns to it for a while, with jitter."""
    refusals = iter(range(20))

    def parse(response):
        if next(refusals, None) is not None:
            raise RevisionChanged("another revision")
        return response.text

    call = send({A: [0.0]}, parse=parse)
    assert (call.result, len(call.network.sent), call.log.retries) == ("response of http://a", 21, 0)
    assert call.took_s[0] < 1.5
    assert {timeout_s > 18.0 for *_, timeout_s in call.network.sent} == {True}, "refusals do not lengthen attempts"


def test_other_revision_takes_precedence(send):
    """A revision mismatch is raised although the other replicas are down."""
    assert isinstance(send({A: [0.0], B: [DOWN]}, parse=other_revision).result, RevisionChanged)


def test_other_revision_while_others_ejected(send):
    """A revision mismatch is raised, too, if the other replicas stay ejected until the deadline."""
    call = send({A: [0.0], B: [DOWN]}, parse=other_revision, timeout_s=0.05, times=2)
    assert call.network.urls.count(B) == 1
    assert isinstance(call.result, RevisionChanged)


def test_other_revision_everywhere(send):
    """A call ends two seconds after all replicas have refused it, and soon tries each once."""
    call = send({A: [0.0], B: [0.0]}, parse=other_revision)
    assert isinstance(call.result, RevisionChanged)
    assert call.network.urls[:2] == [A, B]
    assert 2.0 <= call.took_s[0] <= 2.2


def test_unknown_reward_everywhere(send):
    """A reward that no replica has is an error at once."""
    call = send({A: [partial(UnknownReward, "no such reward", status=404, code="unknown_reward")]})
    assert isinstance(call.result, UnknownReward)
    assert len(call.network.sent) == 1


def test_limiter_timeout_is_no_failure(send):
    """A timeout of the concurrency limiter does not eject the endpoint."""
    busy = partial(LimiterTimeout, "16 calls were in flight")
    assert send({A: [busy, 0.0]}, timeout_s=5.0).endpoint.consecutive_failures == 0
    assert "last error: 16 calls were in flight" in str(send({A: [busy]}, timeout_s=5.0).result)


def test_failing_replica_is_avoided(send):
    """A failing replica receives few calls while another one responds."""
    assert send({A: [DOWN], B: [0.01]}, times=20).network.urls.count(A) <= 3


@pytest.mark.parametrize("timeout_s", [0.0, -0.5])
def test_no_time_for_an_attempt(send, timeout_s):
    """A call whose deadline has passed makes no attempt and blames no endpoint."""
    call = send({A: [0.0]}, timeout_s=timeout_s)
    assert str(call.result) == "gave up after 0 attempts within 0 s; last error: no time was left for an attempt"
    assert (call.network.sent, call.endpoint.consecutive_failures) == ([], 0)


@pytest.mark.parametrize("rejection", [FULL, partial(NotReady, "loading", status=503, code="l", retry_after_s=2.0)])
def test_retry_after_with_another_replica_down(send, monkeypatch, rejection):
    """A call does not return to a replica before its Retry-After, although the other one fails."""
    monkeypatch.setattr(retry, "JITTER", SimpleNamespace(random=lambda: 0.0))
    call = send({B: [rejection, 0.0], A: [DOWN]})
    assert call.result == "response of http://b"
    first_s, second_s = [when_s for when_s, url, _ in call.network.sent if url == B]
    assert second_s >= first_s + 2.0
    assert {url for when_s, url, _ in call.network.sent if first_s < when_s < second_s} == {A}, "A is probed"


def test_only_500_gives_up_early(send):
    """A service that responds with nothing but 500 is given up long before the deadline."""
    call = send({A: [FAILS]}, timeout_s=300.0)
    attempts = len(call.network.sent)
    assert 10.0 < call.took_s[0] <= 20.0
    assert attempts >= 6
    assert str(call.result) == f"gave up after {attempts} attempts within 20 s; last error: it responded with 500"


def test_only_500_of_all_replicas(send):
    """Several replicas that respond with nothing but 500 are given up as early."""
    call = send({A: [FAILS], B: [FAILS]}, timeout_s=300.0)
    assert call.took_s[0] <= 20.0
    assert set(call.network.urls) == {A, B}


def test_only_500_with_a_near_deadline(send):
    """A nearer deadline bounds a call to a service that responds with 500."""
    assert "within 3 s; last error: it responded with 500" in str(send({A: [FAILS]}, timeout_s=3.0).result)


@pytest.mark.parametrize("other", [DOWN, FULL, LOADING, partial(InvalidResponse, "garbage")])
def test_mixed_errors_last_to_the_deadline(send, other):
    """A service that also fails in other ways than by 500 is retried until the deadline."""
    call = send({A: [FAILS, FAILS, other] * 99}, timeout_s=300.0)
    assert call.took_s[0] > 280.0
    assert "within 300 s" in str(call.result)


def test_500_while_another_is_down(send):
    """While another replica may come back, a service that responds with 500 is retried."""
    call = send({A: [FAILS], B: [DOWN] * 12 + [0.0]}, timeout_s=300.0)
    assert call.result == "response of http://b"
    assert call.took_s[0] > 40.0


def test_500_known_before_the_call(send):
    """A call to a service known to respond with 500 retries for a while, too."""
    call = send({A: [FAILS]}, timeout_s=300.0, times=2)
    ended_s = sum(call.took_s)
    assert 20.0 < ended_s <= 40.0
    assert len([when_s for when_s in call.network.times if when_s > ended_s - 15.0]) > 2


def test_500_ends_a_crowd_together(send, loop):
    """All concurrent calls to a service that responds with 500 end within the same time."""
    calls, _ = send.start({A: [FAILS]}, 64)
    loop.run_until_complete(asyncio.wait(calls))
    assert all("last error: it responded with 500" in str(call.exception()) for call in calls)
    assert loop.now_s - 1000.0 <= 20.0


def test_slow_call_from_before_a_failure(send, loop):
    """A slow call that started before a failure does not delay the retry of another one."""
    (slow, failing), sender = send.start({A: [9.0, DOWN, 0.0]}, 2)
    assert loop.run_until_complete(failing) == "response of http://a"
    assert sender.transport.times == pytest.approx([0.0, 0.0, 0.1])
    assert loop.run_until_complete(slow) == "response of http://a"


@pytest.mark.parametrize("hedge_after_s", [None, 5.0])
def test_one_probe_at_a_time(send, loop, hedge_after_s):
    """While one call probes an endpoint that failed, all others wait."""
    calls, sender = send.start({A: [DOWN] * 8 + [3.0, 0.0]}, 8, hedge_after_s=hedge_after_s)
    assert loop.run_until_complete(asyncio.gather(*calls)) == ["response of http://a"] * 8
    probed_s, *later_s = sender.transport.times[8:]
    assert min(later_s) >= probed_s + 3.0


def test_throttled_until_retry_after(send, loop):
    """An overloaded endpoint is throttled for its Retry-After."""
    (call,), sender = send.start({A: [FULL, 0.0]}, 1)
    loop.run_until_complete(asyncio.sleep(0.5))
    assert sender.endpoints.endpoints[0].throttled_until_s == pytest.approx(1002.0)
    loop.run_until_complete(call)


def test_probe_after_one_failure(send, loop):
    """One failure suffices for half open; a cancelled probe ends it."""
    calls, sender = send.start({A: [9.0, DOWN, NEVER]}, 2)
    loop.run_until_complete(asyncio.sleep(1.0))
    (endpoint,) = sender.endpoints.endpoints
    assert (endpoint.consecutive_failures, endpoint.outstanding, endpoint.half_open) == (1, 2, True)
    send.cancel(*calls)
    assert (endpoint.outstanding, endpoint.half_open) == (0, False)


def test_cancelled_probe_frees_the_next(send, loop):
    """After a probe was cancelled another call may probe."""
    calls, sender = send.start({A: [DOWN, DOWN, NEVER, 0.0]}, 2)
    loop.run_until_complete(asyncio.sleep(1.0))
    assert (len(sender.transport.sent), sender.endpoints.endpoints[0].half_open) == (3, True)
    send.cancel(*calls)
    assert loop.run_until_complete(send.call(sender)) == "response of http://a"


@pytest.mark.parametrize("step", [partial(BadRequest, "wrong", status=422, code="bad_request"), 0.0])
def test_wrong_call_ejects_nobody(send, step):
    """An error of the call itself does not eject the endpoint."""
    endpoint = send({A: [step]}, parse=other_revision).endpoint
    assert (endpoint.consecutive_failures, endpoint.ejected_until_s) == (0, 0.0)


def test_a_limit_per_endpoint(send, loop):
    """Each endpoint has a concurrency limit of its own."""
    calls, sender = send.start({A: [1.0], B: [1.0]}, 2 * MAX_CONCURRENCY)
    loop.run_until_complete(asyncio.wait(calls))
    assert set(sender.transport.times) == {0.0}


@dataclass
class SmallService:
    """A service that computes one call at a time, queues three, and rejects more."""

    loop: VirtualLoop
    inside: int = 0
    free_s: float = 0.0
    sent: int = 0

    async def send(self, url, request, deadline_s):
        self.sent += 1
        await asyncio.sleep(0.002)
        if self.inside == 4:
            raise Overloaded("full", status=429, code="overloaded", retry_after_s=1.0)
        self.inside += 1
        self.free_s = max(self.free_s, self.loop.now_s) + 0.05
        await asyncio.sleep(self.free_s - self.loop.now_s)
        self.inside -= 1
        return httpx.Response(200, text="response")


def test_crowd_learns_the_limit(send, loop, monkeypatch):
    """A crowd of calls learns the concurrency of a small service instead of being rejected one by one."""
    monkeypatch.setattr(retry, "JITTER", Random(1))
    service = SmallService(loop)
    sender = send.sender(service, [A])
    calls = [send.call(sender, timeout_s=300.0) for _ in range(100)]
    assert loop.run_until_complete(asyncio.gather(*calls)) == ["response"] * 100
    assert service.sent <= 150  # 427 with a constant limit of 16
    assert loop.now_s - 1000.0 < 6.0  # a hundred calls take five seconds


@dataclass
class LateService:
    """A service that reports at the advertised deadline that it is late."""

    loop: VirtualLoop
    sent: int = 0

    async def send(self, url, request, deadline_s):
        self.sent += 1
        await asyncio.sleep(advertised_timeout_s(deadline_s - self.loop.now_s))
        raise NotReady("the time allowed ran out", status=503, code="deadline_exceeded")


@pytest.mark.parametrize("timeout_s", [0.1, 1.0, 20.0])
def test_late_response_is_reported(send, loop, timeout_s):
    """What a service responds at the advertised deadline is raised, without another attempt in the time left."""
    service = LateService(loop)
    call = send.call(send.sender(service, [A]), timeout_s=timeout_s)
    with pytest.raises(ServiceUnreachable, match=f"within {timeout_s:g} s; last error: the time allowed ran out$"):
        loop.run_until_complete(call)
    assert service.sent == 1


def test_overload_behind_one_url(send):
    """After an overload of one replica behind a URL, the call returns there before its Retry-After."""
    full = partial(Overloaded, "full", status=429, code="overloaded", retry_after_s=9.0, instance="x")
    transport = ScriptedTransport(send.loop, {A: [0.0, 0.0, full, 0.0]}, instances={A: ["x", "y", "y"]})
    sender = send.sender(transport, [A])
    for _ in range(3):
        send.loop.run_until_complete(send.call(sender))
    assert transport.times[-1] < 1.0


def test_jitter_is_not_seeded():
    """Seeding Python's generator, as a training does on every rank, does not make the ranks retry together."""
    state = random.getstate()
    try:
        random.seed(1)
        first = [retry.JITTER.random() for _ in range(4)]
        random.seed(1)
        assert [retry.JITTER.random() for _ in range(4)] != first
    finally:
        random.setstate(state)

"""Choosing endpoints, ejecting them, and limiting the calls to each."""

import asyncio
from contextlib import suppress
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remote_rewards import load_balancing
from remote_rewards.load_balancing import (
    MAX_CONCURRENCY,
    AimdLimit,
    ConcurrencyLimiter,
    Endpoint,
    LimiterTimeout,
    any_available,
    backoff_s,
    next_available_in_s,
    pick,
    replicas_for_a_call,
)
from shared.errors import InternalServerError, Overloaded, ServiceUnreachable

DOWN = ServiceUnreachable("connection refused")
FAILED = InternalServerError("it responded with 500", status=500, code="failed")
FULL = Overloaded("full", status=429, code="overloaded")


class TestBackoff:
    @given(st.integers(0, 60), st.floats(0, 1), st.none() | st.floats(0, 1e9))
    def test_bounded(self, attempt, fraction, retry_after_s):
        """No delay exceeds the maximum."""
        assert 0 <= backoff_s(attempt, fraction=fraction, retry_after_s=retry_after_s, max_s=10) <= 10

    def test_doubles(self):
        """Delays double up to the maximum."""
        assert [backoff_s(attempt, fraction=1.0, base_s=0.5, max_s=3) for attempt in range(5)] == [0.5, 1, 2, 3, 3]

    def test_defaults(self):
        """The first delay is at most 0.2 s, and none exceeds 10 s."""
        assert [backoff_s(attempt, fraction=1.0) for attempt in (0, 1, 50, 1100)] == [0.2, 0.4, 10.0, 10.0]

    def test_retry_after(self):
        """Retry-After is a lower bound."""
        assert backoff_s(0, fraction=0.0, retry_after_s=2.0) == 2.0


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


SENT, SUCCESS, OVERLOAD = range(3)
steps = st.lists(st.sampled_from([SENT, SENT, SUCCESS, OVERLOAD]), max_size=200)


def outcomes(aimd, steps):
    """Send calls and record the outcome of the oldest; yield it with the limit before and after."""
    in_flight = []
    for step in steps:
        before = aimd.limit
        if step == SENT:
            in_flight.append(aimd.decreases)
        elif in_flight:
            decreases = in_flight.pop(0)
            aimd.on_success() if step == SUCCESS else aimd.on_overload(decreases)
            yield step, decreases, before, aimd.limit


class TestAimdLimit:
    @given(steps)
    def test_bounded(self, steps):
        """The limit stays between one and its initial value."""
        assert all(1 <= after <= MAX_CONCURRENCY for *_, after in outcomes(AimdLimit(), steps))

    @given(steps)
    def test_halves_once(self, steps):
        """Of the calls sent between two decreases only one decreases the limit, however many are rejected."""
        decreased = set()
        for step, decreases, before, after in outcomes(AimdLimit(), steps):
            if step == OVERLOAD:
                assert after == (before if decreases in decreased else max(1, before / 2))
                decreased.update(range(decreases + 1))

    @given(st.floats(1, MAX_CONCURRENCY))
    def test_increases_by_one(self, limit):
        """A round of successes increases the limit by at most one."""
        aimd = AimdLimit(limit)
        for _ in range(int(limit)):
            aimd.on_success()
        assert min(MAX_CONCURRENCY, limit + 0.5) <= aimd.limit <= limit + 1

    def test_recovers(self):
        """150 successes bring the limit back from one to its maximum."""
        aimd = AimdLimit(1.0)
        for _ in range(150):
            aimd.on_success()
        assert aimd.limit == MAX_CONCURRENCY


class Calls:
    """Calls through a limiter, which end when a test says how."""

    def __init__(self, limit):
        self.limiter, self.ends, self.in_flight, self.tasks = ConcurrencyLimiter("a", AimdLimit(limit)), {}, [], []

    def start(self, *numbers, timeout_s=10.0):
        for number in numbers:
            self.ends[number] = asyncio.get_running_loop().create_future()
            self.tasks.append(asyncio.create_task(self._call(number, timeout_s)))
        return self.tasks[-1]

    async def _call(self, number, timeout_s):
        async with self.limiter.acquire(timeout_s):
            self.in_flight.append(number)
            try:
                await self.ends[number]
            finally:
                self.in_flight.remove(number)

    async def after(self, number=None, error=None):
        """Return the calls in flight after one has ended, or after those started have been admitted."""
        if number is not None:
            self.ends[number].set_exception(error) if error else self.ends[number].set_result(None)
        for _ in range(10):
            await asyncio.sleep(0)
        return self.in_flight


@pytest.fixture
async def calls():
    """Make calls with a limit; cancel them at the end."""
    made = []

    def make(limit):
        made.append(Calls(limit))
        return made[-1]

    yield make
    tasks = [task for calls in made for task in calls.tasks]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class TestConcurrencyLimiter:
    async def test_first_in_first_out(self, calls):
        """As many calls are in flight as the limit allows, and waiting calls are admitted in order."""
        calls = calls(2.0)
        calls.start(0, 1, 2, 3, 4, 5)
        assert await calls.after() == [0, 1]
        assert await calls.after(1) == [0, 2]  # limit 2.5
        assert await calls.after(0) == [2, 3]  # 2.9
        assert await calls.after(2) == [3, 4, 5]  # 3.2

    async def test_decrease(self, calls):
        """After a decrease no call is admitted until fewer than the new limit are in flight."""
        calls = calls(4.0)
        calls.start(*range(8))
        assert await calls.after() == [0, 1, 2, 3]
        assert await calls.after(0, FULL) == [1, 2, 3]  # limit 2
        assert await calls.after(1, FULL) == [2, 3]  # still 2: it was sent before the decrease
        assert await calls.after(2, ValueError()) == [3, 4]  # still 2: neither success nor overload
        assert await calls.after(4, FULL) == [3]  # 1: it was sent after the decrease
        assert await calls.after(3) == [5, 6]  # 2

    async def test_cancelled_waiter(self, calls):
        """A cancelled call leaves the queue."""
        calls = calls(1.0)
        calls.start(0, 1, 2)
        await calls.after()
        calls.tasks[1].cancel()
        assert await calls.after() == [0]
        assert await calls.after(0, ValueError()) == [2]

    async def test_cancelled_when_admitted(self, calls):
        """A call that is cancelled just as it is admitted passes its slot on."""
        calls = calls(1.0)

        async def first():
            with suppress(ValueError):
                async with calls.limiter.acquire(10.0):
                    await calls.after()
                    raise ValueError
            calls.tasks[1].cancel()

        calls.tasks.append(asyncio.create_task(first()))
        calls.start(1, 2)
        await asyncio.wait(calls.tasks[:1])
        assert await calls.after() == [2]
        assert calls.tasks[1].cancelled()

    async def test_timeout(self, calls):
        """A call that is not admitted in time raises an error with the number of calls in flight."""
        calls = calls(1.0)
        calls.start(0)
        await calls.after()
        with pytest.raises(LimiterTimeout, match="1 calls were in flight to a until the timeout"):
            await calls.start(1, timeout_s=0.01)
        calls.start(2)
        assert await calls.after(0) == [2]


class TestInstances:
    """Replicas behind one URL."""

    @staticmethod
    async def call(limiter, instance, overloaded=False):
        with suppress(Overloaded):
            async with limiter.acquire(1.0) as admission:
                admission.instance = instance
                if overloaded:
                    raise Overloaded("full", status=429, code="overloaded", instance=instance)

    async def test_limits_add_up(self):
        """Each replica behind a URL adds a limit of its own, up to the one that the service tells."""
        limiter = ConcurrencyLimiter("a")
        for instance in "xyxz":
            await self.call(limiter, instance)
        assert (limiter.limit, sorted(limiter.instances)) == (3 * MAX_CONCURRENCY, ["x", "y", "z"])
        limiter.set_maximum(20)
        assert limiter.limit == 60

    async def test_one_overload(self):
        """The overload of one replica decreases its limit alone; one of the balancer itself, all of them."""
        limiter = ConcurrencyLimiter("a")
        for instance in "xyz":
            await self.call(limiter, instance)
        await self.call(limiter, "x", overloaded=True)
        assert limiter.limit == 2.5 * MAX_CONCURRENCY
        await self.call(limiter, None, overloaded=True)
        assert limiter.limit == 1.25 * MAX_CONCURRENCY

    async def test_forgotten(self):
        """A replica that has not responded for a while is forgotten: processes restart under other names."""
        limiter = ConcurrencyLimiter("a")
        for instance in [*"xy", *"y" * 64]:
            await self.call(limiter, instance)
        assert limiter.instances == ["y"]

    async def test_throttled(self):
        """A URL is throttled once all of its replicas are."""
        endpoint = Endpoint("a")
        for instance in "xy":
            await self.call(endpoint.limiter, instance)
        endpoint.record_overload(2.0, "x", now_s=0)
        assert any_available([endpoint], now_s=0)
        endpoint.record_overload(3.0, "y", now_s=0)
        assert not any_available([endpoint], now_s=1)
        assert any_available([endpoint], now_s=2)

"""Limiting the calls in flight to an endpoint."""

import asyncio
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remote_rewards.concurrency_limit import MAX_CONCURRENCY, AimdLimit, ConcurrencyLimiter, LimiterTimeout
from shared.errors import Overloaded

FULL = Overloaded("full", status=429, code="overloaded")
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

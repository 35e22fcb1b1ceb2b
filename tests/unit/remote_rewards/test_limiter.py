"""How many calls go to a replica at a time, and who of those that wait is next."""

import asyncio
import gc
import weakref
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remote_rewards.aimd_limit import AT_ONCE, Allowance
from remote_rewards.limiter import Line, Lines, NoTurn
from shared.errors import Overloaded

FULL = Overloaded("full", status=429, code="overloaded")
SENT, ANSWERED, REFUSED = range(3)


def told(allowance, steps):
    """Send calls and tell what came of the oldest; give each step with what was allowed before and after it."""
    under_way = []
    for step in steps:
        before, sent_after = allowance.calls, under_way[0] if under_way else None
        if step == SENT:
            under_way.append(allowance.halvings)
        elif under_way:
            under_way.pop(0)
            allowance.answered() if step == ANSWERED else allowance.refused(sent_after)
            yield step, sent_after, before, allowance.calls


steps = st.lists(st.sampled_from([SENT, SENT, ANSWERED, REFUSED]), max_size=200)


@given(steps)
def test_at_least_one_call_is_allowed_and_never_more_than_at_first(steps):
    assert all(1 <= after <= AT_ONCE for *_, after in told(Allowance(), steps))


@given(steps)
def test_calls_sent_between_two_halvings_halve_once_however_many_are_refused(steps):
    halved = set()
    for step, sent_after, before, after in told(Allowance(), steps):
        first = step == REFUSED and sent_after not in halved
        if step == REFUSED:
            assert after == (max(1, before / 2) if first else before)
            halved.update(range(sent_after + 1))


@given(st.floats(1, AT_ONCE))
def test_a_round_of_answers_allows_one_more_call_at_most(calls):
    allowance = Allowance(calls)
    for _ in range(int(calls)):
        allowance.answered()
    assert min(AT_ONCE, calls + 0.5) <= allowance.calls <= calls + 1


def test_a_hundred_and_fifty_answers_bring_back_all_that_refusals_took():
    allowance = Allowance(1.0)
    for _ in range(150):
        allowance.answered()
    assert allowance.calls == AT_ONCE


class Calls:
    """Calls that end when they are told how."""

    def __init__(self, calls):
        self.line, self.allowance, self.ends, self.under_way = Line("http://a"), Allowance(calls), {}, []

    def begin(self, number, within_s=10.0):
        self.ends[number] = asyncio.get_running_loop().create_future()
        return asyncio.create_task(self._call(number, within_s))

    async def _call(self, number, within_s):
        async with self.line.turn(self.allowance, within_s):
            self.under_way.append(number)
            try:
                await self.ends[number]
            finally:
                self.under_way.remove(number)

    async def after(self, number=None, error=None):
        """Give who is under way once one has ended, or whoever begins has begun."""
        if number is not None:
            self.ends[number].set_exception(error) if error else self.ends[number].set_result(None)
        for _ in range(10):
            await asyncio.sleep(0)
        return self.under_way


@pytest.fixture
async def ended():
    """Wait for calls that a test has begun."""
    begun = []
    yield begun
    for task in begun:
        task.cancel()
    await asyncio.gather(*begun, return_exceptions=True)


async def test_as_many_are_under_way_as_are_allowed_and_who_came_first_is_next(ended):
    calls = Calls(2.0)
    ended += [calls.begin(number) for number in range(6)]
    assert await calls.after() == [0, 1]
    assert await calls.after(1) == [0, 2]  # 2.5 are allowed
    assert await calls.after(0) == [2, 3]  # 2.9
    assert await calls.after(2) == [3, 4, 5]  # 3.2


async def test_after_a_refusal_nobody_goes_until_less_than_half_is_under_way(ended):
    calls = Calls(4.0)
    ended += [calls.begin(number) for number in range(8)]
    assert await calls.after() == [0, 1, 2, 3]
    assert await calls.after(0, FULL) == [1, 2, 3]  # 2 are allowed
    assert await calls.after(1, FULL) == [2, 3]  # still 2: it was sent before
    assert await calls.after(2, ValueError()) == [3, 4]  # nothing is known of what it takes
    assert await calls.after(4, FULL) == [3]  # 1: it was sent afterwards
    assert await calls.after(3) == [5, 6]  # 2


async def test_who_gives_up_leaves_the_line(ended):
    calls = Calls(1.0)
    ended += [calls.begin(number) for number in range(3)]
    await calls.after()
    ended[1].cancel()
    assert await calls.after() == [0]
    assert await calls.after(0, ValueError()) == [2]


async def test_who_gives_up_as_the_turn_comes_gives_it_on(ended):
    calls = Calls(1.0)

    async def first():
        with suppress(ValueError):
            async with calls.line.turn(calls.allowance, 10.0):
                await calls.after()
                raise ValueError
        ended[1].cancel()

    ended += [asyncio.create_task(first()), calls.begin(1), calls.begin(2)]
    await asyncio.wait(ended[:1])
    assert await calls.after() == [2]
    assert ended[1].cancelled()


async def test_whose_turn_does_not_come_in_time_is_told_what_was_in_its_way(ended):
    calls = Calls(1.0)
    ended += [calls.begin(0)]
    await calls.after()
    with pytest.raises(NoTurn, match="http://a had 1 calls under way all the time"):
        await calls.begin(1, within_s=0.01)
    ended += [calls.begin(2)]
    assert await calls.after(0) == [2]


def test_each_event_loop_and_replica_has_a_line_of_its_own():
    lines = Lines()

    async def met():
        return [lines.to(url) for url in ("http://a", "http://a", "http://b")]

    (a, again, b), (elsewhere, *_) = (asyncio.run(met()) for _ in range(2))
    assert a is again
    assert a is not b
    assert a is not elsewhere


async def test_a_line_is_forgotten_once_nobody_stands_in_it():
    lines = Lines()
    async with lines.to("http://a").turn(Allowance(), 10.0):
        line = weakref.ref(lines.to("http://a"))
        gc.collect()
        assert lines.to("http://a") is line()
    gc.collect()
    assert line() is None

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remote_rewards import load_balancing
from remote_rewards.aimd_limit import Allowance
from remote_rewards.backoff import delay_s
from remote_rewards.load_balancing import Endpoint
from remote_rewards.responses import retry_after_s
from shared.errors import InternalServerError, ServiceUnreachable


@given(st.integers(0, 60), st.floats(0, 1), st.none() | st.floats(0, 1e9))
def test_no_wait_is_longer_than_the_cap(attempt, fraction, retry_after):
    assert 0 <= delay_s(attempt, fraction=fraction, retry_after_s=retry_after, cap_s=10) <= 10


def test_waits_double():
    assert [delay_s(attempt, fraction=1.0, first_s=0.5, cap_s=3) for attempt in range(5)] == [0.5, 1, 2, 3, 3]


def test_the_first_wait_is_within_a_fifth_of_a_second_and_none_longer_than_ten():
    assert [delay_s(attempt, fraction=1.0) for attempt in (0, 1, 50)] == [0.2, 0.4, 10.0]


def test_however_often_it_failed_there_is_a_wait():
    endpoint = Endpoint("a")
    for _ in range(1100):
        load_balancing.failed(endpoint, WHY, now_s=0)
    assert endpoint.closed_until_s == 1.5
    assert delay_s(1100, fraction=1.0) == 10.0


def test_retry_after_is_a_floor():
    assert delay_s(0, fraction=0.0, retry_after_s=2.0) == 2.0


def test_retry_after_is_read_as_seconds_or_date_and_nonsense_is_ignored():
    assert retry_after_s("3", now_s=0) == 3
    assert retry_after_s("Thu, 01 Jan 1970 00:00:09 GMT", now_s=4) == 5
    assert retry_after_s("Thu, 01 Jan 1970 00:00:01 GMT", now_s=4) == 0
    assert retry_after_s("soon", now_s=0) is None
    assert retry_after_s("-5", now_s=0) is None
    assert retry_after_s("²", now_s=0) is None


def test_the_replica_with_the_least_to_do_is_asked():
    busy, idle = Endpoint("a", outstanding=3), Endpoint("b", outstanding=1)
    assert load_balancing.choose([busy, idle], now_s=0) is idle


def test_what_a_replica_has_to_do_is_weighed_by_what_it_takes():
    small, large = Endpoint("a", outstanding=2, allowance=Allowance(2.0)), Endpoint("b", outstanding=9)
    assert load_balancing.choose([small, large], now_s=0) is large


def test_replicas_with_as_much_to_do_are_asked_in_turns():
    both, order = [Endpoint("a"), Endpoint("b")], ""
    for now_s in range(1, 7):
        chosen = load_balancing.choose(both, now_s=now_s)
        chosen.asked_s, order = now_s, order + chosen.url
    assert order == "ababab"


def test_a_full_replica_is_the_last_choice_until_the_time_it_named():
    full, busy = Endpoint("a"), Endpoint("b", outstanding=9)
    load_balancing.full(full, 2.0, now_s=0)
    assert load_balancing.choose([full, busy], now_s=1.9) is busy
    assert load_balancing.choose([full], now_s=1.9) is full
    assert not load_balancing.at_once([full], now_s=1.9)
    assert load_balancing.choose([full, busy], now_s=2.0) is full
    assert load_balancing.at_once([full], now_s=2.0)


def test_a_full_replica_that_names_no_time_may_be_asked_now_and_none_stays_full_for_long():
    endpoint = Endpoint("a")
    load_balancing.full(endpoint, None, now_s=5)
    assert load_balancing.at_once([endpoint], now_s=5)
    load_balancing.full(endpoint, 3600.0, now_s=5)
    assert endpoint.full_until_s == 5 + load_balancing.LONGEST_FULL_S


def test_one_that_failed_cannot_be_asked_at_once_before_its_pause_is_over():
    endpoint = Endpoint("a")
    load_balancing.failed(endpoint, WHY, now_s=0)
    assert [load_balancing.at_once([endpoint], now_s=now_s) for now_s in (0.05, 0.1)] == [False, True]


WHY, BROKEN = ServiceUnreachable("why"), InternalServerError("it answered 500", status=500, code="failed")


def test_a_replica_that_failed_is_left_alone_and_comes_back():
    first, second = Endpoint("a"), Endpoint("b", outstanding=5)
    load_balancing.failed(first, WHY, now_s=0)
    assert load_balancing.choose([first, second], now_s=0.05) is second
    assert load_balancing.choose([first, second], now_s=0.1) is first
    assert first.last_error is WHY
    load_balancing.answered(first)
    assert first == Endpoint("a")


def test_one_that_failed_is_tried_by_one_caller_for_all():
    only = Endpoint("a")
    load_balancing.failed(only, WHY, now_s=0)
    assert load_balancing.choose([only], now_s=0.05) is None
    assert load_balancing.choose([only], now_s=1) is only
    only.probing = True
    assert load_balancing.choose([only], now_s=1) is None
    load_balancing.answered(only)
    assert load_balancing.choose([only], now_s=1) is only


def test_what_was_under_way_before_a_failure_keeps_nobody_from_trying_again():
    only = Endpoint("a", outstanding=3)
    load_balancing.failed(only, WHY, now_s=0)
    assert load_balancing.choose([only], now_s=1) is only


def test_each_failure_in_a_row_doubles_the_pause_up_to_a_bound():
    endpoint = Endpoint("a")
    pauses = []
    for _ in range(6):
        load_balancing.failed(endpoint, WHY, now_s=0)
        pauses.append(endpoint.closed_until_s)
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.5, 1.5]


def until(*replicas, began_s=0.0):
    return load_balancing.ends_s(replicas, began_s=began_s, deadline_s=300.0)


def test_a_call_ends_at_its_deadline_or_twenty_seconds_after_all_have_begun_to_answer_500():
    one, other = Endpoint("a"), Endpoint("b")
    assert until() == until(one, other) == 300.0
    load_balancing.failed(one, BROKEN, now_s=0.0)
    assert (until(one), until(one, other)) == (20.0, 300.0)
    load_balancing.failed(one, BROKEN, now_s=7.0)
    load_balancing.failed(other, BROKEN, now_s=9.0)
    assert (until(one), until(one, other)) == (20.0, 29.0)
    assert until(one, other, began_s=100.0) == 120.0
    assert until(one, other, began_s=290.0) == 300.0


ELSE = {
    "right": load_balancing.answered,
    "full": partial(load_balancing.full, retry_after_s=1.0, now_s=3.0),
    "not there": partial(load_balancing.failed, error=WHY, now_s=3.0),
}


@pytest.mark.parametrize("told", ELSE.values(), ids=ELSE)
def test_whatever_else_a_replica_answers_ends_a_row_of_500(told):
    endpoint = Endpoint("a")
    load_balancing.failed(endpoint, BROKEN, now_s=0.0)
    told(endpoint)
    assert until(endpoint) == 300.0
    load_balancing.failed(endpoint, BROKEN, now_s=5.0)
    assert until(endpoint) == 25.0


def test_who_waits_looks_again_when_the_first_pause_is_over():
    one, other = Endpoint("a"), Endpoint("b")
    for endpoint in (one, other, other):
        load_balancing.failed(endpoint, WHY, now_s=0)
    assert load_balancing.pause_s([one, other], now_s=0) == 0.1
    assert load_balancing.pause_s([one, other], now_s=9) == 0.02

import pytest

from reward_service.batching.admission import (
    MIN_BATCH_TOKENS,
    RECENT_S,
    Load,
    QueueLimits,
    Throughput,
    admit_or_raise,
    is_urgent,
    max_batch_s,
    shared_device_s,
)
from reward_service.errors import Overloaded

LIMITS = QueueLimits(max_queue_texts=100, max_queue_tokens=1000)
SLOW = Throughput(tokens=5000.0, seconds=100.0)


def admitted(waiting, requested, throughput=SLOW, remaining_s=float("inf")):
    try:
        admit_or_raise(waiting, requested, LIMITS, throughput, remaining_s)
    except Overloaded:
        return False
    return True


@pytest.mark.parametrize(
    ("requested", "admits"),
    [(Load(90, 90), True), (Load(91, 91), False), (Load(1, 900), True), (Load(1, 901), False)],
)
def test_what_does_not_fit_in_texts_or_tokens_is_refused(requested, admits):
    assert admitted(Load(10, 100), requested) is admits


def test_where_nothing_waits_everything_is_let_in():
    assert admitted(Load(0, 0), Load(100, 100_000), remaining_s=0.0)


@pytest.mark.parametrize(("remaining_s", "admits"), [(6.1, False), (6.3, True)])
def test_what_would_wait_longer_than_its_caller_is_refused_at_once(remaining_s, admits):
    assert admitted(Load(10, 100), Load(1, 10), remaining_s=remaining_s) is admits


def test_models_of_one_device_take_turns():
    assert shared_device_s(2.0, [0.0, 0.1, 5.0]) == 6.0
    assert shared_device_s(0.0, [5.0]) == 0.0


def test_what_waits_for_other_models_of_the_device_is_waited_for_too():
    other_backlogs_s = [0.0, 0.5, 100.0]
    admit_or_raise(Load(10, 100), Load(1, 10), LIMITS, SLOW, 19.0, other_backlogs_s)
    with pytest.raises(Overloaded) as refused:
        admit_or_raise(Load(10, 100), Load(1, 10), LIMITS, SLOW, 18.0, other_backlogs_s)
    assert refused.value.retry_after_s == pytest.approx(2.0 + 0.5 + 2.0)
    assert is_urgent(Load(10, 100), SLOW, 20.0, other_backlogs_s)
    assert not is_urgent(Load(10, 100), SLOW, 20.0)


def test_the_time_to_come_back_is_how_long_the_line_takes():
    with pytest.raises(Overloaded) as refused:
        admit_or_raise(Load(100, 400), Load(1, 1), LIMITS, SLOW, float("inf"))
    assert refused.value.retry_after_s == pytest.approx(8.0)
    assert "100 texts are queued, about 8.0 s of work" in str(refused.value)


def test_the_speed_follows_what_is_measured():
    throughput = Throughput()
    assert throughput.seconds_for(100) == 0.0
    throughput.record(1000, 10.0)
    assert throughput.seconds_for(100) == pytest.approx(1.0)
    for _ in range(40):
        throughput.record(1000, 1.0)
    assert throughput.seconds_for(1000) == pytest.approx(1.0, rel=0.01)


def test_one_small_batch_that_met_a_busy_moment_does_not_make_the_line_look_long():
    throughput = Throughput()
    throughput.record(MIN_BATCH_TOKENS - 1, 20.0)
    assert admitted(Load(90, 900), Load(1, 10), throughput, remaining_s=1.0)
    throughput.record(MIN_BATCH_TOKENS, 20.0)
    assert not admitted(Load(90, 900), Load(1, 10), throughput, remaining_s=1.0)


def test_a_batch_may_take_twice_as_long_once_no_small_request_has_come_for_a_while():
    assert max_batch_s(RECENT_S) == 2 * max_batch_s(0.99 * RECENT_S) == 2 * max_batch_s(0.0)

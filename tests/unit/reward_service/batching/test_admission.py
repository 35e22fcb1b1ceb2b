import pytest

from reward_service.batching.admission import (
    FEWEST_TOKENS,
    LATELY_S,
    Load,
    QueueLimits,
    Throughput,
    admit_or_raise,
    hurried,
    in_turns_s,
    longest_batch_s,
)
from reward_service.errors import Overloaded

BOUNDS = QueueLimits(max_queue_texts=100, max_queue_tokens=1000)
SLOW = Throughput(tokens=5000.0, seconds=100.0)


def admitted(waiting, asked, speed=SLOW, patience_s=float("inf")):
    try:
        admit_or_raise(waiting, asked, BOUNDS, speed, patience_s)
    except Overloaded:
        return False
    return True


@pytest.mark.parametrize(
    ("asked", "admits"),
    [(Load(90, 90), True), (Load(91, 91), False), (Load(1, 900), True), (Load(1, 901), False)],
)
def test_what_does_not_fit_in_texts_or_tokens_is_refused(asked, admits):
    assert admitted(Load(10, 100), asked) is admits


def test_where_nothing_waits_everything_is_let_in():
    assert admitted(Load(0, 0), Load(100, 100_000), patience_s=0.0)


@pytest.mark.parametrize(("patience_s", "admits"), [(6.1, False), (6.3, True)])
def test_what_would_wait_longer_than_its_caller_is_refused_at_once(patience_s, admits):
    assert admitted(Load(10, 100), Load(1, 10), patience_s=patience_s) is admits


def test_models_of_one_device_take_turns():
    assert in_turns_s(2.0, [0.0, 0.1, 5.0]) == 6.0
    assert in_turns_s(0.0, [5.0]) == 0.0


def test_what_waits_for_other_models_of_the_device_is_waited_for_too():
    other_backlogs_s = [0.0, 0.5, 100.0]
    admit_or_raise(Load(10, 100), Load(1, 10), BOUNDS, SLOW, 19.0, other_backlogs_s)
    with pytest.raises(Overloaded) as refused:
        admit_or_raise(Load(10, 100), Load(1, 10), BOUNDS, SLOW, 18.0, other_backlogs_s)
    assert refused.value.retry_after_s == pytest.approx(2.0 + 0.5 + 2.0)
    assert hurried(Load(10, 100), SLOW, 20.0, other_backlogs_s)
    assert not hurried(Load(10, 100), SLOW, 20.0)


def test_the_time_to_come_back_is_how_long_the_line_takes():
    with pytest.raises(Overloaded) as refused:
        admit_or_raise(Load(100, 400), Load(1, 1), BOUNDS, SLOW, float("inf"))
    assert refused.value.retry_after_s == pytest.approx(8.0)
    assert "100 texts wait already, about 8.0 s of work" in str(refused.value)


def test_the_speed_follows_what_is_measured():
    speed = Throughput()
    assert speed.seconds_for(100) == 0.0
    speed.note(1000, 10.0)
    assert speed.seconds_for(100) == pytest.approx(1.0)
    for _ in range(40):
        speed.note(1000, 1.0)
    assert speed.seconds_for(1000) == pytest.approx(1.0, rel=0.01)


def test_one_small_batch_that_met_a_busy_moment_does_not_make_the_line_look_long():
    speed = Throughput()
    speed.note(FEWEST_TOKENS - 1, 20.0)
    assert admitted(Load(90, 900), Load(1, 10), speed, patience_s=1.0)
    speed.note(FEWEST_TOKENS, 20.0)
    assert not admitted(Load(90, 900), Load(1, 10), speed, patience_s=1.0)


def test_a_batch_may_take_twice_as_long_once_no_small_request_has_come_for_a_while():
    assert longest_batch_s(LATELY_S) == 2 * longest_batch_s(0.99 * LATELY_S) == 2 * longest_batch_s(0.0)

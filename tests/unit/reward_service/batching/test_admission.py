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
def test_queue_limits(requested, admits):
    """A request that exceeds the queue's limit of texts or of tokens is rejected."""
    assert admitted(Load(10, 100), requested) is admits


def test_empty_queue_admits_all():
    """An empty queue admits any request, whatever its size and deadline."""
    assert admitted(Load(0, 0), Load(100, 100_000), remaining_s=0.0)


@pytest.mark.parametrize(("remaining_s", "admits"), [(6.1, False), (6.3, True)])
def test_deadline_would_pass(remaining_s, admits):
    """A request that would miss its deadline in the queue is rejected on arrival."""
    assert admitted(Load(10, 100), Load(1, 10), remaining_s=remaining_s) is admits


def test_shared_device():
    """Each other model with a backlog adds one share to the time on the device."""
    assert shared_device_s(2.0, [0.0, 0.1, 5.0]) == 6.0
    assert shared_device_s(0.0, [5.0]) == 0.0


def test_backlog_of_other_models():
    """The backlog of other models on the device counts for admission, Retry-After and urgency."""
    other_backlogs_s = [0.0, 0.5, 100.0]
    admit_or_raise(Load(10, 100), Load(1, 10), LIMITS, SLOW, 19.0, other_backlogs_s)
    with pytest.raises(Overloaded) as refused:
        admit_or_raise(Load(10, 100), Load(1, 10), LIMITS, SLOW, 18.0, other_backlogs_s)
    assert refused.value.retry_after_s == pytest.approx(2.0 + 0.5 + 2.0)
    assert is_urgent(Load(10, 100), SLOW, 20.0, other_backlogs_s)
    assert not is_urgent(Load(10, 100), SLOW, 20.0)


def test_retry_after_is_backlog():
    """Retry-After is the compute time of the queued texts."""
    with pytest.raises(Overloaded) as refused:
        admit_or_raise(Load(100, 400), Load(1, 1), LIMITS, SLOW, float("inf"))
    assert refused.value.retry_after_s == pytest.approx(8.0)
    assert "100 texts are queued, about 8.0 s of work" in str(refused.value)


def test_throughput_estimate():
    """The throughput estimate follows the measured batches."""
    throughput = Throughput()
    assert throughput.seconds_for(100) == 0.0
    throughput.record(1000, 10.0)
    assert throughput.seconds_for(100) == pytest.approx(1.0)
    for _ in range(40):
        throughput.record(1000, 1.0)
    assert throughput.seconds_for(1000) == pytest.approx(1.0, rel=0.01)


def test_one_slow_small_batch():
    """One small slow batch is too little to estimate the throughput from."""
    throughput = Throughput()
    throughput.record(MIN_BATCH_TOKENS - 1, 20.0)
    assert admitted(Load(90, 900), Load(1, 10), throughput, remaining_s=1.0)
    throughput.record(MIN_BATCH_TOKENS, 20.0)
    assert not admitted(Load(90, 900), Load(1, 10), throughput, remaining_s=1.0)


def test_max_batch_duration():
    """Batches may take twice as long when no small request has arrived recently."""
    assert max_batch_s(RECENT_S) == 2 * max_batch_s(0.99 * RECENT_S) == 2 * max_batch_s(0.0)

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from reward_service.batching.admission import Load
from reward_service.batching.fair_queue import FairQueue

BUDGET = 64


class Caller:
    """A caller, identified by `is`."""


def text(number, length=8):
    return (number,) * length


def numbered(texts):
    return dict(enumerate(texts))


def names(jobs):
    return [job.tokens[0] for job in jobs]


def serve(queue):
    jobs = queue.take()
    for job in jobs:
        queue.complete(job)
    return jobs


@pytest.mark.parametrize("lengths", [[8], [4, 8, 12, 16, 20, 24, 28, 32]])
def test_single_text_beside_flood(lengths):
    """A single text is scheduled within four batches of another caller's flood."""
    queue, single = FairQueue(BUDGET, max_items=256), Caller()
    queue.add(Caller(), numbered([text(i, lengths[i % len(lengths)]) for i in range(1000)]))
    for _ in range(20):
        serve(queue)
    queue.add(single, numbered([text(5000, 2)]))
    assert any(5000 in names(serve(queue)) for _ in range(4))


@pytest.mark.parametrize("fits", [True, False])
def test_small_requests_first(fits):
    """The next batch holds all small requests if they fit, beside the first job."""
    queue, lengths = FairQueue(128, max_items=256, padding_cost=0.2), [2, 20, 9, 14] if fits else [2, 60, 9, 70]
    queue.add(Caller(), numbered([text(i) for i in range(1000)]))
    for number, length in enumerate(lengths):
        queue.add(Caller(), numbered([text(5000 + number, length)]))
    batch = names(serve(queue))
    assert batch[0] == 0, "the first job is always in"
    assert ({5000, 5001, 5002, 5003} <= set(batch)) == fits


def test_shared_text_is_small():
    """A text of a large request is scheduled early if a small request waits for it too."""
    queue = FairQueue(64, max_items=256)
    queue.add(Caller(), numbered([text(i) for i in range(100)]))
    queue.add(Caller(), numbered([text(99)]))
    assert 99 in names(serve(queue))


@pytest.mark.parametrize(("texts", "joins"), [(4, True), (5, False)])
def test_small_request_threshold(texts, joins):
    """A request of up to four texts is small."""
    queue = FairQueue(64, max_items=256)
    queue.add(Caller(), numbered([text(i) for i in range(100)]))
    queue.add(Caller(), numbered([text(5000 + i, 2) for i in range(texts)]))
    assert (5000 in names(serve(queue))) == joins


@pytest.mark.parametrize("urgent", [True, False])
def test_urgent_lookahead(urgent):
    """An urgent batch takes no job from far behind in the queue."""
    queue = FairQueue(BUDGET, max_items=256)
    queue.add(Caller(), numbered([text(0, 8), *[text(i, 16) for i in range(1, 6)]]))
    for number in range(30):
        queue.add(Caller(), numbered([text(100 * number + i, 16) for i in range(100, 105)]))
    queue.add(Caller(), numbered([text(9000 + i, 8) for i in range(5)]))
    assert (9000 in names(queue.take(urgent=urgent))) != urgent


def test_clear():
    """A cleared queue has no load."""
    queue = FairQueue(BUDGET, max_items=256)
    queue.add(Caller(), numbered([text(i) for i in range(9)]))
    assert len(queue.clear()) == 9
    assert queue.load == Load(0, 0)


def test_long_text_not_starved():
    """A flood of short texts does not starve a long one."""
    queue = FairQueue(BUDGET, max_items=256)
    queue.add(Caller(), numbered([text(i, 4) for i in range(100)]))
    queue.add(Caller(), numbered([text(9999, 500)]))
    queue.add(Caller(), numbered([text(i, 4) for i in range(100, 500)]))
    assert any(9999 in names(serve(queue)) for _ in range(3))


def test_large_request_not_starved():
    """A flood of single texts does not keep a large request from finishing."""
    queue = FairQueue(BUDGET, max_items=256)
    queue.add(Caller(), numbered([text(i) for i in range(100)]))
    added_load, left = iter(range(1000, 10**9)), set(range(100))
    for _ in range(250):  # more than can be served
        for _ in range(8):
            queue.add(Caller(), numbered([text(next(added_load))]))
        left -= set(names(serve(queue)))
    assert not left


def test_two_floods_share_equally():
    """Two floods get the same share of the device."""
    queue = FairQueue(BUDGET, max_items=256)
    queue.add(Caller(), numbered([text(i) for i in range(400)]))
    serve(queue)
    queue.add(Caller(), numbered([text(i) for i in range(1000, 1400)]))
    served = Counter(name >= 1000 for _ in range(30) for name in names(serve(queue)))
    assert abs(served[True] - served[False]) <= 2 * BUDGET // 8


class Queueing(RuleBasedStateMachine):
    """In whatever order things happen, every caller gets each of its texts once, and no text runs twice at once."""

    def __init__(self):
        super().__init__()
        self.queue = FairQueue(BUDGET, max_items=7)
        self.owed = {}  # caller -> {index: tokens}

    callers, batches = Bundle("callers"), Bundle("batches")

    @rule(target=callers, texts=st.lists(st.tuples(st.integers(1, 20), st.integers(1, 30)), min_size=1, max_size=12))
    def add(self, texts):
        caller, batch = Caller(), [text(*spec) for spec in texts]
        before = len(self.queue)
        expected = self.queue.added_load(batch)
        self.queue.add(caller, numbered(batch))
        assert len(self.queue) == before + expected.texts
        self.owed[caller] = dict(enumerate(batch))
        return caller

    @rule(target=batches)
    def take(self):
        jobs = self.queue.take()
        return jobs if jobs else multiple()

    @rule(jobs=consumes(batches))
    def end(self, jobs):
        for job in jobs:
            self.queue.complete(job)
            for caller, index in job.waiters:
                if caller in self.owed:
                    assert self.owed[caller].pop(index) == job.tokens

    @rule(caller=consumes(callers))
    def leave(self, caller):
        self.queue.cancel(caller)
        self.owed.pop(caller)

    @invariant()
    def every_job_has_a_waiter(self):
        assert all(job.waiters for job in self.queue._waiting)
        assert len(self.queue._jobs) >= len(self.queue)

    @invariant()
    def load_is_that_of_waiting_jobs(self):
        waiting = self.queue._waiting
        assert self.queue.load == Load(len(waiting), sum(len(job.tokens) for job in waiting))

    def teardown(self):
        for job in self.queue.clear():
            for caller, index in job.waiters:
                if caller in self.owed:
                    assert self.owed[caller].pop(index) == job.tokens
        assert not any(self.owed.values())


TestQueueing = Queueing.TestCase
TestQueueing.settings = settings(max_examples=60, stateful_step_count=40)

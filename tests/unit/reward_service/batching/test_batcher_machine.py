"""In whatever order callers and device act, every caller gets one answer, and the right one."""

import asyncio
from concurrent.futures import Executor, Future

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from reward_service.batching.admission import QueueLimits
from reward_service.batching.batcher import Batcher
from reward_service.batching.cache import LogitsCache
from reward_service.batching.device import Device
from reward_service.errors import BackendFailed, DeadlineExceeded, Draining, NotReady, Overloaded

POISON, QUEUE_TEXTS, DEADLINE_S = 13, 12, 60.0
TEXTS = st.lists(st.tuples(st.integers(1, 20), st.integers(1, 6)), min_size=1, max_size=8)


class Stepwise(Executor):
    """An executor that computes one batch per call of `finish`."""

    def __init__(self):
        self.work = []

    def submit(self, forward, batch):
        self.work.append((future := Future(), forward, batch))
        future.set_running_or_notify_cancel()  # a running batch cannot be cancelled
        return future

    def finish(self):
        future, forward, batch = self.work.pop(0)
        try:
            future.set_result(forward(batch))
        except ValueError as error:
            future.set_exception(error)


class ByFirstToken:
    """A backend that fails on texts with POISON in them."""

    def forward(self, batch):
        if any(POISON in tokens for tokens in batch):
            raise ValueError("poison")
        return [[float(tokens[0]), float(len(tokens))] for tokens in batch]


class Clockwork(asyncio.SelectorEventLoop):
    """An event loop whose clock can be moved forward."""

    ahead_s = 0.0

    def time(self):
        return super().time() + self.ahead_s


class Batching(RuleBasedStateMachine):
    """Callers arrive, cancel and reach their deadlines while the device computes, fails and drains."""

    def __init__(self):
        super().__init__()
        self.loop, self.device = Clockwork(), Stepwise()
        limits = QueueLimits(budget_tokens=16, max_items=4, max_queue_texts=QUEUE_TEXTS)
        self.batcher = Batcher(ByFirstToken(), Device(self.device), limits, LogitsCache(5))
        self.callers = {}  # task -> (its texts, whether it has a deadline)
        self.loop.run_until_complete(self.batcher.start())
        self.stopped = False

    def settle(self):
        """Run everything that needs neither the device nor the clock."""
        for _ in range(30):
            self.loop.run_until_complete(asyncio.sleep(0))

    @rule(texts=TEXTS, has_deadline=st.booleans())
    def submit(self, texts, has_deadline):
        batch = [(number,) * length for number, length in texts]
        deadline_s = self.loop.time() + DEADLINE_S if has_deadline else float("inf")
        self.callers[self.loop.create_task(self.batcher.submit(batch, deadline_s=deadline_s))] = batch, has_deadline
        self.settle()

    @precondition(lambda self: self.device.work)
    @rule()
    def compute(self):
        self.device.finish()
        self.settle()

    @precondition(lambda self: any(not task.done() for task in self.callers))
    @rule(data=st.data())
    def leave(self, data):
        task = data.draw(st.sampled_from([task for task in self.callers if not task.done()]))
        del self.callers[task]
        task.cancel()
        self.settle()
        assert task.cancelled()

    @rule()
    def time_passes(self):
        self.loop.ahead_s += 2 * DEADLINE_S
        self.settle()
        assert all(task.done() for task, (_, has_deadline) in self.callers.items() if has_deadline)

    @rule(chance=st.integers(0, 15))
    def drain(self, chance):
        if chance < 15 and not self.stopped:
            return  # rarely: little happens afterwards
        self.stopped = True
        self.loop.run_until_complete(self.batcher.stop())
        self.settle()
        assert all(task.done() for task in self.callers)

    @invariant()
    def queue_is_within_its_limit(self):
        assert self.batcher.depth <= QUEUE_TEXTS

    @invariant()
    def one_batch_at_a_time(self):
        assert len(self.device.work) <= 1 + self.stopped

    @invariant()
    def answers_are_right(self):
        for task in [task for task in self.callers if task.done()]:
            texts, has_deadline = self.callers.pop(task)
            self.check(task, texts, has_deadline)

    def check(self, task, texts, has_deadline):
        match task.exception():
            case None:
                assert len(task.result().outcomes) == len(texts)
                for tokens, outcome in zip(texts, task.result().outcomes, strict=True):
                    self.check_outcome(tokens, outcome)
            case DeadlineExceeded():
                assert has_deadline
            case NotReady():
                assert self.stopped
            case error:
                assert isinstance(error, Overloaded)

    def check_outcome(self, tokens, outcome):
        if self.stopped and isinstance(outcome, Draining):
            return
        if POISON in tokens:
            assert isinstance(outcome, BackendFailed)
        else:
            assert outcome == [tokens[0], len(tokens)]

    def teardown(self):
        while self.device.work:
            self.compute()
        assert all(task.done() for task in self.callers)
        self.answers_are_right()
        self.loop.run_until_complete(self.batcher.stop())
        self.loop.close()


TestBatching = Batching.TestCase
TestBatching.settings = settings(max_examples=100, stateful_step_count=50)

"""Queue and admission control under load: a device and its callers in virtual time."""

import itertools
import random
from dataclasses import dataclass, field

import pytest

from reward_service.batching.admission import (
    MAX_BATCH_S_WITH_SMALL,
    Load,
    QueueLimits,
    Throughput,
    admit_or_raise,
    is_urgent,
)
from reward_service.batching.fair_queue import FairQueue
from reward_service.errors import Overloaded

BUDGET, TOKENS_PER_S, CALL_S = 2048, 9000.0, 0.003
TIMEOUT_S = 5.0


@dataclass(eq=False)
class Caller:
    """A caller with one request."""

    arrived_s: float
    remaining_s: float
    texts: int
    left: int
    took_s: float = 0.0


@dataclass
class Device:
    """A slow device behind a queue. Padding and caller call take time."""

    rng: random.Random = field(default_factory=lambda: random.Random(0))
    queue: FairQueue = field(default_factory=lambda: FairQueue(BUDGET, max_items=256))
    throughput: Throughput = field(default_factory=Throughput)
    now_s: float = 0.0
    waiting: list[Caller] = field(default_factory=list)
    answered: list[Caller] = field(default_factory=list)
    late: int = 0
    refused: int = 0
    serials: itertools.count = field(default_factory=itertools.count)

    def text(self):
        return (next(self.serials), *[0] * self.rng.randrange(10, 149))

    def offer(self, texts, arrived_s, remaining_s=TIMEOUT_S):
        batch = [self.text() for _ in range(texts)]
        requested = Load(texts, sum(map(len, batch)))
        try:
            admit_or_raise(self.queue.load, requested, QueueLimits(BUDGET), self.throughput, remaining_s)
        except Overloaded:
            self.refused += 1
            return None
        caller = Caller(arrived_s, remaining_s, texts, left=texts)
        self.queue.add(caller, dict(enumerate(batch)))
        self.waiting.append(caller)
        return caller

    def run_batch(self):
        urgent = is_urgent(self.queue.load, self.throughput, self.least_remaining_s())
        jobs = self.queue.take(self.throughput.tokens_within(MAX_BATCH_S_WITH_SMALL), urgent=urgent)
        lengths = [len(job.tokens) for job in jobs]
        spent_s = CALL_S + len(jobs) * max(lengths) / TOKENS_PER_S
        self.now_s += spent_s
        self.throughput.record(sum(lengths), spent_s)
        for job in jobs:
            self.queue.complete(job)
            for caller, _ in job.waiters:
                caller.left -= 1
        for caller in [caller for caller in self.waiting if not caller.left]:
            self.waiting.remove(caller)
            caller.took_s = self.now_s - caller.arrived_s
            self.answered.append(caller)

    def least_remaining_s(self):
        return min(caller.arrived_s + caller.remaining_s for caller in self.waiting) - self.now_s

    def time_out(self):
        for caller in [caller for caller in self.waiting if self.now_s - caller.arrived_s > TIMEOUT_S]:
            self.waiting.remove(caller)
            self.queue.cancel(caller)
            self.late += 1


def closed_loop(texts, callers, seconds):
    """Return the requests per second if caller caller sends the next one when the last is answered."""
    device = Device()
    while device.now_s < seconds:
        while len(device.waiting) < callers:
            device.offer(texts, device.now_s, remaining_s=float("inf"))
        device.run_batch()
    return len(device.answered) / device.now_s


def open_loop(texts, requests_per_s, seconds):
    """Run a device at which requests arrive at a fixed rate."""
    device, arrivals = Device(), (number / requests_per_s for number in itertools.count())
    due_s = next(arrivals)
    while device.now_s < seconds:
        while due_s <= device.now_s:
            device.offer(texts, due_s)
            due_s = next(arrivals)
        device.time_out()
        if device.waiting:
            device.run_batch()
        else:
            device.now_s = due_s
    return device


@pytest.mark.parametrize("texts", [1, 8, 32, 128])
@pytest.mark.parametrize("factor", [2, 10])
def test_overload(texts, factor):
    """Under overload every admitted request meets its deadline, and goodput does not fall."""
    capacity = closed_loop(texts, callers=8, seconds=20)
    device = open_loop(texts, factor * capacity, seconds=20)
    assert device.refused
    assert device.late == 0
    assert max(caller.took_s for caller in device.answered) <= TIMEOUT_S
    assert len(device.answered) / device.now_s >= 0.9 * capacity


def test_single_texts_beside_flood():
    """A flood delays single texts to at most three times their latency without it."""

    def slowest_s(flooded):
        device, singles = Device(), []
        flood = device.offer(1000, 0.0, remaining_s=float("inf")) if flooded else None
        while device.now_s < 30:
            if flooded and not flood.left:
                flood = device.offer(1000, device.now_s, remaining_s=float("inf"))
            singles = [caller for caller in singles if caller.left]
            while len(singles) < 10:
                singles.append(device.offer(1, device.now_s, remaining_s=float("inf")))
            device.run_batch()
        took_s = sorted(caller.took_s for caller in device.answered if caller.texts == 1)
        return took_s[int(0.99 * len(took_s)) - 1]

    assert slowest_s(flooded=True) <= 3 * slowest_s(flooded=False)

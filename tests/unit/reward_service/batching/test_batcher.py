import asyncio
import itertools
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from reward_service.batching.admission import QueueLimits, Throughput
from reward_service.batching.batcher import BatchDone, Batcher
from reward_service.batching.cache import CacheLookup, LogitsCache
from reward_service.batching.device import Device
from reward_service.batching.fair_queue import FairQueue
from reward_service.errors import (
    BackendFailed,
    BackendUnavailable,
    DeadlineExceeded,
    Draining,
    NotFinite,
    NotReady,
    Overloaded,
)

SLOW = Throughput(tokens=1e5, seconds=1e3)
"""100 tokens/s, measured for so long that the batches of a test do not change it."""


class Gated:
    """A backend that returns each sequence's first token once its gate is open. Token 666 makes it fail."""

    def __init__(self, open_=True):
        self.gate, self.inside = threading.Event(), threading.Event()
        self.batches = []
        if open_:
            self.gate.set()

    def forward(self, batch):
        self.inside.set()
        assert self.gate.wait(10)
        self.batches.append([tokens[0] for tokens in batch])
        if any(666 in tokens for tokens in batch):
            raise ValueError("poison")
        return [[float(tokens[0])] for tokens in batch]

    async def entered(self):
        assert await asyncio.to_thread(self.inside.wait, 10)


@asynccontextmanager
async def batching(backend, cache=None, observe=lambda event: None, **limits):
    with ThreadPoolExecutor(1) as pool:
        batcher = Batcher(backend, Device(pool), QueueLimits(**limits), cache, observe)
        await batcher.start()
        try:
            yield batcher
        finally:
            backend.gate.set()
            await batcher.stop()


@asynccontextmanager
async def busy(**limits):
    """A batcher whose device computes one text, [1], until the backend's gate is opened."""
    backend = Gated(open_=False)
    async with batching(backend, **limits) as batcher:
        first = asyncio.create_task(batcher.submit([[1]]))
        await backend.entered()
        yield batcher, backend, first
        backend.gate.set()
        await first


async def queued(batcher, count):
    async with asyncio.timeout(10):
        while batcher.depth != count:  # noqa: ASYNC110 - the queue has no event
            await asyncio.sleep(0)


async def test_outcomes_in_order():
    """Each text gets its own outcome, in request order."""
    async with batching(Gated(), budget_tokens=8) as batcher:
        ticket = await batcher.submit([[i] * (i % 5 + 1) for i in range(1, 60)])
    assert ticket.outcomes == [[float(i)] for i in range(1, 60)]


async def test_batch_forms_while_busy():
    """Texts that arrive while the device computes share the next batch."""
    async with busy() as (batcher, backend, first):
        rest = [asyncio.create_task(batcher.submit([[i]])) for i in (2, 3, 4)]
        await queued(batcher, 3)
        backend.gate.set()
        tickets = await asyncio.gather(first, *rest)
    assert [ticket.outcomes for ticket in tickets] == [[[1.0]], [[2.0]], [[3.0]], [[4.0]]]
    assert backend.batches == [[1], [2, 3, 4]]


@pytest.mark.parametrize("poisoned", range(64))
async def test_poison_text(poisoned):
    """A text that makes the model fail has no effect on the others of its batch."""
    texts = [[666] if i == poisoned else [i] for i in range(64)]
    async with batching(Gated()) as batcher:
        ticket = await batcher.submit(texts)
    assert isinstance(ticket.outcomes[poisoned], BackendFailed)
    assert [o for i, o in enumerate(ticket.outcomes) if i != poisoned] == [
        [float(i)] for i in range(64) if i != poisoned
    ]


@pytest.mark.parametrize(("texts", "batch"), [(1, 64), (4, 64), (5, 128)])
async def test_small_request_shortens_batches(texts, batch):
    """Batches are half as long after a request of up to four texts."""
    backend = Gated(open_=False)
    async with batching(backend) as batcher:
        batcher._throughput = Throughput(
            tokens=8.01e6, seconds=1000.0
        )  # so much that what is measured here counts for nothing
        first = asyncio.create_task(batcher.submit([[i] for i in range(texts)]))
        await backend.entered()
        flood = asyncio.create_task(batcher.submit([[i] * 10 for i in range(10, 210)]))
        await queued(batcher, 200)
        backend.gate.set()
        await asyncio.gather(first, flood)
    assert len(backend.batches[1]) == batch


async def test_duplicates_computed_once():
    """The same text of two callers is computed once, and both get its logits."""
    async with busy() as (batcher, backend, first):
        second = asyncio.create_task(batcher.submit([[2], [1], [2]]))
        await queued(batcher, 1)
        backend.gate.set()
        tickets = await asyncio.gather(first, second)
    assert [ticket.outcomes for ticket in tickets] == [[[1.0]], [[2.0], [1.0], [2.0]]]
    assert backend.batches == [[1], [2]]


async def test_shared_text_survives_cancel():
    """A text of a cancelled caller is computed if another caller waits for it."""
    async with busy() as (batcher, backend, first):
        cancelled, stays = (asyncio.create_task(batcher.submit([[2], [2, extra]])) for extra in (3, 4))
        await queued(batcher, 3)
        cancelled.cancel()
        await queued(batcher, 2)
        backend.gate.set()
        tickets = await asyncio.gather(first, stays)
    assert tickets[1].outcomes == [[2.0], [2.0]]


async def test_overload_rejects_whole_request():
    """A request that does not fit into the queue is rejected as a whole."""
    async with busy(max_queue_texts=3) as (batcher, backend, first):
        second = asyncio.create_task(batcher.submit([[2], [3]]))
        await queued(batcher, 2)
        with pytest.raises(Overloaded):
            await batcher.submit([[4], [5]])
        assert batcher.depth == 2
        backend.gate.set()
        await asyncio.gather(first, second)


async def test_cancelled_not_computed():
    """The texts of a cancelled caller are not computed."""
    async with busy() as (batcher, backend, first):
        cancelled = asyncio.create_task(batcher.submit([[2]]))
        await queued(batcher, 1)
        cancelled.cancel()
        await queued(batcher, 0)
        last = asyncio.create_task(batcher.submit([[3]]))
        await queued(batcher, 1)
        backend.gate.set()
        await asyncio.gather(first, last)
    assert backend.batches == [[1], [3]]


async def test_expired_not_computed():
    """A caller gets `DeadlineExceeded` at its deadline, and its texts are not computed."""
    async with busy() as (batcher, backend, _):
        with pytest.raises(DeadlineExceeded, match="deadline passed"):  # at once, not when the device is free
            await batcher.submit([[2]], deadline_s=time.monotonic())
    assert backend.batches == [[1]]


async def test_stop_finishes_all():
    """On stop, queued and running texts end with `Draining`."""
    async with busy() as (batcher, _, first):
        waiting = asyncio.create_task(batcher.submit([[2]]))
        await queued(batcher, 1)
        await batcher.stop()
        tickets = await asyncio.gather(first, waiting)
    assert all(isinstance(ticket.outcomes[0], Draining) for ticket in tickets)


async def test_cancelled_batch_is_cached():
    """The logits of a batch are cached even if its caller was cancelled."""
    backend = Gated(open_=False)
    async with batching(backend, LogitsCache(10)) as batcher:
        cancelled = asyncio.create_task(batcher.submit([[1], [2]]))
        await backend.entered()
        cancelled.cancel()
        backend.gate.set()
        await asyncio.gather(batcher.submit([[3]]))
        ticket = await batcher.submit([[2], [1]])
    assert ticket.outcomes == [[2.0], [1.0]]
    assert backend.batches == [[1, 2], [3]]


@pytest.mark.parametrize("value", [math.nan, math.inf])
async def test_non_finite_logits(value):
    """Logits that are not finite are an error, and are not cached."""

    class NonFinite(Gated):
        def forward(self, batch):
            return [[value, 1.0] for _ in super().forward(batch)]

    backend = NonFinite()
    async with batching(backend, LogitsCache(10)) as batcher:
        tickets = [await batcher.submit([[1]]) for _ in range(2)]
    outcomes = [ticket.outcomes[0] for ticket in tickets]
    assert all(isinstance(outcome, NotFinite) for outcome in outcomes)
    assert {str(outcome) for outcome in outcomes} == {f"the model returned {[value, 1.0]}"}
    assert len(backend.batches) == 2


async def test_worker_failure():
    """A worker that fails finishes its jobs with an error and is restarted."""

    class Broken(LogitsCache):
        def put(self, tokens, logits):
            if tokens == (1,):
                raise ValueError("a bug")

    async with batching(Gated(), Broken(1)) as batcher:
        with pytest.raises(BackendFailed, match="worker failed"):
            await batcher.submit([[1]])
        assert (await batcher.submit([[2]])).outcomes == [[2.0]]
        assert batcher.healthy


class Breaking(Gated):
    """A backend that fails on everything while it is broken."""

    broken = False

    def forward(self, batch):
        rows = super().forward(batch)
        if self.broken:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return rows


async def test_model_down(monkeypatch):
    """While the model is down, whole requests fail, queued ones too, and no text gets the blame."""
    monkeypatch.setattr("reward_service.batching.batcher.PROBE_INTERVAL_S", 0.01)
    backend = Breaking()
    async with batching(backend, budget_tokens=4) as batcher:
        await batcher.submit([[1]])
        backend.broken = True
        calls = [batcher.submit([[10 * call + index] for index in range(1, 9)]) for call in range(1, 4)]
        failed = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(error) for error in failed] == [BackendUnavailable] * 3
        assert [str(error).partition("; ")[0] for error in failed] == ["the model is down"] * 3
        reasons = [str(error).partition("; ")[2] for error in failed]
        assert reasons[0].startswith("the model failed on this text: RuntimeError: CUDA error"), "it was computed"
        assert reasons[1:] == ["ask another replica"] * 2, "they were queued"
        assert not batcher.healthy
        with pytest.raises(BackendUnavailable, match="another replica"):
            await batcher.submit([[2]])
        assert batcher.depth == 0


async def test_model_recovers(monkeypatch):
    """A model that is down is probed until it computes again."""
    monkeypatch.setattr("reward_service.batching.batcher.PROBE_INTERVAL_S", 0.001)
    backend = Breaking()
    async with batching(backend) as batcher:
        await batcher.submit([[1]])
        backend.broken = True
        with pytest.raises(BackendUnavailable):
            await batcher.submit([[2]])
        tried = len(backend.batches)
        async with asyncio.timeout(10):
            while len(backend.batches) < tried + 3:
                assert not batcher.healthy
                await asyncio.sleep(0.001)
        backend.broken = False
        async with asyncio.timeout(10):
            while not batcher.healthy:  # noqa: ASYNC110 - health has no event
                await asyncio.sleep(0.001)
        assert (await batcher.submit([[2]])).outcomes == [[2.0]]


async def test_submit_after_stop():
    """A stopped batcher accepts no request."""
    async with batching(Gated()) as batcher:
        await batcher.stop()
        assert not batcher.healthy
        with pytest.raises(NotReady):
            await batcher.submit([[1]])


async def test_stalled_is_unhealthy():
    """A batcher whose batch exceeds its timeout is unhealthy until the batch ends."""
    async with busy(batch_timeout_s=0.0) as (batcher, backend, first):
        assert not batcher.healthy
        backend.gate.set()
        await first
        assert batcher.healthy


async def test_observer_failure():
    """An observer that raises does not stop the worker."""

    def observe(event):
        raise ValueError("broken observer")

    async with batching(Gated(), observe=observe) as batcher:
        tickets = [await batcher.submit([[number]]) for number in (1, 2)]
    assert [ticket.outcomes for ticket in tickets] == [[[1.0]], [[2.0]]]


async def test_wrong_number_of_rows():
    """A backend that returns too few rows is an error for every text."""

    class Short(Gated):
        def forward(self, batch):
            return super().forward(batch)[:-1]

    async with batching(Short()) as batcher:
        ticket = await batcher.submit([[1], [2]])
    assert all(isinstance(outcome, BackendFailed) for outcome in ticket.outcomes)


async def test_check_deadline():
    """A deadline that the queue cannot meet is rejected before the body is read."""
    async with busy(max_queue_texts=10) as (batcher, backend, _):
        batcher.check_deadline(time.monotonic())  # no throughput is measured yet
        batcher._throughput = replace(SLOW)
        waiting = asyncio.create_task(batcher.submit([[2] * 2000]))
        await queued(batcher, 1)
        batcher.check_deadline(math.inf)
        batcher.check_deadline(time.monotonic() + 3600)
        batcher.check_deadline(time.monotonic() + 63)  # three times the backlog of 20 s, and a margin
        with pytest.raises(Overloaded):
            batcher.check_deadline(time.monotonic() + 61)
        backend.gate.set()
        await waiting


async def test_deadline_with_other_model():
    """Another model's backlog counts against a deadline until that model stops."""
    async with busy() as (batcher, backend, _):
        other = Batcher(Gated(), batcher._device, QueueLimits())
        await other.start()
        batcher._throughput, other._throughput = replace(SLOW), replace(SLOW)
        calls = [asyncio.create_task(model.submit([[i] * 500 for i in (2, 3)])) for model in (batcher, other)]
        await queued(batcher, 2)
        await queued(other, 1)
        with pytest.raises(Overloaded):
            batcher.check_deadline(time.monotonic() + 45)
        await other.stop()
        assert not batcher._device.other_backlogs_s(batcher)
        batcher.check_deadline(time.monotonic() + 45)
        backend.gate.set()
        await asyncio.gather(*calls, return_exceptions=True)


async def test_own_texts_exceed_deadline():
    """A request whose own texts take longer than its deadline is rejected on arrival."""
    async with busy() as (batcher, backend, _):
        batcher._throughput = replace(SLOW)
        waiting = asyncio.create_task(batcher.submit([[2]]))
        await queued(batcher, 1)
        with pytest.raises(Overloaded):
            await batcher.submit([[3] * 2000], deadline_s=time.monotonic() + 10)
        backend.gate.set()
        await waiting


@pytest.fixture
def planned(monkeypatch):
    """The queue of each batch, and whether it was planned as urgent."""
    batches, take = [], FairQueue.take

    def recording_take(queue, max_tokens=None, *, urgent=False):
        batches.append((queue, urgent))
        return take(queue, max_tokens, urgent=urgent)

    monkeypatch.setattr(FairQueue, "take", recording_take)
    return batches


async def test_urgent_near_deadline(planned):
    """Batches are planned as urgent while a caller is near its deadline."""
    async with busy() as (batcher, backend, first):
        batcher._throughput = replace(SLOW)
        for deadline_s in (math.inf, time.monotonic() + 30, math.inf):  # of about 10 s of work
            call = asyncio.create_task(batcher.submit([[i] * 10 for i in range(10, 110)], deadline_s=deadline_s))
            await queued(batcher, 100)
            backend.gate.set()
            await asyncio.gather(first, call)
            backend.gate.clear()
            backend.inside.clear()
            first = asyncio.create_task(batcher.submit([[1]]))
            await backend.entered()
        backend.gate.set()
        await first
    assert [urgent for (_, urgent), _ in itertools.groupby(planned)] == [False, True, False]


@pytest.mark.parametrize("beside_another", [False, True])
async def test_urgent_with_other_model(planned, beside_another):
    """Another model's backlog brings a caller nearer to its deadline."""
    async with busy() as (batcher, backend, _):
        other = Batcher(Gated(), batcher._device, QueueLimits(max_items=1))
        await other.start()
        batcher._throughput, other._throughput = replace(SLOW), replace(SLOW)
        calls = [asyncio.create_task(batcher.submit([[i] * 100 for i in (2, 3)], deadline_s=time.monotonic() + 12))]
        await queued(batcher, 2)
        if beside_another:
            calls.append(asyncio.create_task(other.submit([[2], [3]])))
            await queued(other, 1)  # one is on its way to the device, one waits
        backend.gate.set()
        await asyncio.gather(*calls)
        assert [urgent for queue, urgent in planned if queue is batcher._queue][1] == beside_another
        await other.stop()


async def test_worker_survives_cancel():
    """The worker goes on after a batch whose only caller was cancelled."""
    backend = Gated(open_=False)
    async with batching(backend) as batcher:
        worker = batcher._worker
        call = asyncio.create_task(batcher.submit([[1]]))
        await backend.entered()
        call.cancel()
        await asyncio.wait([call])
        backend.gate.set()
        async with asyncio.timeout(10):
            while batcher._batch_started_s is not None:  # noqa: ASYNC110 - no caller is left to await
                await asyncio.sleep(0)
        assert (await batcher.submit([[2]])).outcomes == [[2.0]]
        assert batcher._worker is worker


async def test_full_queue_check_deadline():
    """A full queue alone is no reason to reject a request before it is read."""
    async with busy(max_queue_texts=1) as (batcher, backend, _):
        waiting = asyncio.create_task(batcher.submit([[2]]))
        await queued(batcher, 1)
        batcher.check_deadline(math.inf)
        backend.gate.set()
        await waiting


async def test_ticket_times():
    """A ticket has its queueing time and the compute time of its batches."""
    async with busy() as (batcher, backend, first):
        calls = [asyncio.create_task(batcher.submit([[number]])) for number in (2, 3)]
        await queued(batcher, 2)
        backend.gate.set()
        tickets = await asyncio.gather(first, *calls)
    assert backend.batches == [[1], [2, 3]]
    assert all(ticket.arrived_s <= ticket.started_s <= time.monotonic() for ticket in tickets)
    assert all(ticket.compute_s > 0 for ticket in tickets)


async def test_cache_lookup_event():
    """Each request emits its cache hits and misses."""
    events = []
    async with batching(Gated(), LogitsCache(10), events.append) as batcher:
        await batcher.submit([[1], [2]])
        await batcher.submit([[1], [2], [3]])
    assert [event for event in events if isinstance(event, CacheLookup)] == [CacheLookup(0, 2), CacheLookup(2, 1)]


async def test_no_cache():
    """Without a cache every request is computed."""
    async with batching(backend := Gated()) as batcher:
        for _ in range(2):
            await batcher.submit([[1]])
    assert backend.batches == [[1], [1]]


async def test_free_padding():
    """With free padding only real tokens count against the budget."""
    async with batching(backend := Gated(), budget_tokens=14, padding_cost=0.0) as batcher:
        await batcher.submit([[1] * 10, [2], [3], [4], [5]])
    assert backend.batches == [[1, 2, 3, 4, 5]]


async def test_probe_input(monkeypatch):
    """The probe is the shortest text of the last batch that was computed."""
    monkeypatch.setattr("reward_service.batching.batcher.PROBE_INTERVAL_S", 0.001)
    async with batching(backend := Breaking()) as batcher:
        await batcher.submit([[1] * 50, [2]])
        backend.broken = True
        with pytest.raises(BackendUnavailable):
            await batcher.submit([[3]])
        assert backend.batches[:3] == [[1, 2], [3], [2]]


async def test_batch_done_event():
    """Each batch emits its texts, tokens, padded tokens and times."""
    events = []
    async with batching(Gated(), observe=events.append, budget_tokens=6) as batcher:
        ticket = await batcher.submit([[1], [2, 2, 2], [3, 3, 3, 3]])
    batches = [event for event in events if isinstance(event, BatchDone)]
    assert [(batch.texts, batch.tokens, batch.padded_tokens) for batch in batches] == [(2, 4, 6), (1, 4, 4)]
    assert all(0 < batch.compute_s < 5 and 0 <= batch.wait_s < 1 for batch in batches)
    assert batches[0].wait_s <= batches[1].wait_s
    assert ticket.compute_s == pytest.approx(sum(batch.compute_s for batch in batches))


async def test_device_wait_is_queueing():
    """The time behind another model's batch is queueing time, not compute time."""
    first, second, loop = Gated(open_=False), Gated(), asyncio.get_running_loop()
    with ThreadPoolExecutor(1) as pool:
        device = Device(pool)
        slow, quick = Batcher(first, device, QueueLimits()), Batcher(second, device, QueueLimits())
        await slow.start()
        await quick.start()
        calls = [asyncio.create_task(slow.submit([[1]]))]
        await first.entered()
        calls.append(asyncio.create_task(quick.submit([[2]])))
        while not pool._work_queue.qsize():  # noqa: ASYNC110 - a pool has no event
            await asyncio.sleep(0)
        opened_s = loop.time()
        first.gate.set()
        _, ticket = await asyncio.gather(*calls)
        assert ticket.compute_s <= loop.time() - opened_s
        assert ticket.started_s >= opened_s
        await slow.stop()
        await quick.stop()


async def test_worker_failure_on_stop(monkeypatch):
    """A worker that fails while it is stopped is not restarted."""
    async with batching(Gated()) as batcher:
        worker = batcher._worker
        monkeypatch.setattr(batcher, "_is_urgent", lambda: 1 / 0)
        batcher._arrived.set()
        while not worker.done():  # noqa: ASYNC110 - stop before the done callback
            await asyncio.sleep(0)
        await batcher.stop()
        await asyncio.sleep(0)
        assert batcher._worker is None

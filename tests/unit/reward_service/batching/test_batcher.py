import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from reward_service.batching.admission import QueueLimits, Throughput
from reward_service.batching.batcher import BatchDone, Batcher
from reward_service.batching.cache import CacheLookup, LogitsCache
from reward_service.batching.device import Device
from reward_service.errors import Draining, NotReady, Overloaded
from tests.unit.reward_service.batching.gated import Gated, batching, busy, queued


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


async def test_submit_after_stop():
    """A stopped batcher accepts no request."""
    async with batching(Gated()) as batcher:
        await batcher.stop()
        assert not batcher.healthy
        with pytest.raises(NotReady):
            await batcher.submit([[1]])


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

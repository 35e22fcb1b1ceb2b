"""Deadlines: what the queue cannot meet is rejected early, and what is near goes first."""

import asyncio
import itertools
import math
import time
from dataclasses import replace

import pytest

from reward_service.batching.admission import QueueLimits
from reward_service.batching.batcher import Batcher
from reward_service.batching.fair_queue import FairQueue
from reward_service.errors import DeadlineExceeded, Overloaded
from tests.unit.reward_service.batching.gated import SLOW, Gated, busy, queued


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


async def test_full_queue_check_deadline():
    """A full queue alone is no reason to reject a request before it is read."""
    async with busy(max_queue_texts=1) as (batcher, backend, _):
        waiting = asyncio.create_task(batcher.submit([[2]]))
        await queued(batcher, 1)
        batcher.check_deadline(math.inf)
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


async def test_expired_not_computed():
    """A caller gets `DeadlineExceeded` at its deadline, and its texts are not computed."""
    async with busy() as (batcher, backend, _):
        with pytest.raises(DeadlineExceeded, match="deadline passed"):  # at once, not when the device is free
            await batcher.submit([[2]], deadline_s=time.monotonic())
    assert backend.batches == [[1]]

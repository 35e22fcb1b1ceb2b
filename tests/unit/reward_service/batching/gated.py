"""A backend whose batches a test holds back, and batchers over it."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from reward_service.batching.admission import QueueLimits, Throughput
from reward_service.batching.batcher import Batcher
from reward_service.batching.device import Device

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


class Breaking(Gated):
    """A backend that fails on everything while it is broken."""

    broken = False

    def forward(self, batch):
        rows = super().forward(batch)
        if self.broken:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return rows

"""Share batches among callers: a bounded queue, one worker, results by index.

In: the tokens of a request's texts. Out: their logits, or for each text the error it met. The next batch forms while
the device is busy, from everything that waits, whoever asked; nothing waits for a timer. What is never done: more
waiting than the bounds allow, or work whose caller has gone or whose time has run out.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field

from reward_service.backends.base import Backend, Logits, Tokens
from reward_service.errors import (
    BackendFailed,
    DeadlineExceeded,
    Draining,
    NotReady,
    Overloaded,
    RewardServiceError,
    raising,
)
from reward_service.packing import next_batch

Outcome = Logits | RewardServiceError
LOOKAHEAD = 512
"""How many of those who wait are looked at when a batch is planned."""


@dataclass(frozen=True, slots=True)
class BatchDone:
    """What metrics and logs learn of a batch."""

    texts: int
    tokens: int
    padded_tokens: int
    wait_s: float
    compute_s: float


@dataclass(slots=True)
class Ticket:
    """One caller's texts on their way through the queue."""

    outcomes: list[Outcome | None]
    done: asyncio.Future[None]
    deadline_s: float
    arrived_s: float
    left: int
    started_s: float | None = None
    compute_s: float = 0.0

    def finish(self, index: int, outcome: Outcome) -> None:
        """Place one result; the last one wakes the caller."""
        self.outcomes[index] = outcome
        self.left -= 1
        if self.left == 0 and not self.done.done():
            self.done.set_result(None)


@dataclass(slots=True)
class Job:
    """One text in the queue."""

    tokens: Tokens
    ticket: Ticket
    index: int


@dataclass(slots=True)
class Bounds:
    """How much a batch may hold and how much may wait."""

    budget_tokens: int = 4096
    max_items: int = 256
    queue_texts: int = 8192


@dataclass(slots=True)
class Batcher:
    """The queue before one model. `device` runs one batch at a time; models on one device share it."""

    backend: Backend
    device: Executor
    bounds: Bounds
    observe: Callable[[BatchDone], None] = lambda event: None
    _waiting: list[Job] = field(default_factory=list)
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)
    _worker: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to take work."""
        self._worker = asyncio.create_task(self._work(), name="batcher")

    async def stop(self) -> None:
        """End the worker; whatever still waits is answered."""
        if self._worker is not None:
            self._worker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._worker
            self._worker = None
        for job in self._waiting:
            job.ticket.finish(job.index, Draining())
        self._waiting.clear()

    @property
    def depth(self) -> int:
        """Texts that wait."""
        return len(self._waiting)

    async def score(self, batch: Sequence[Tokens], *, deadline_s: float = float("inf")) -> Ticket:
        """Wait until every text has its outcome. Raises `Overloaded` if they do not all fit the queue."""
        loop = asyncio.get_running_loop()
        ticket = Ticket([None] * len(batch), loop.create_future(), deadline_s, time.monotonic(), len(batch))
        if not batch:
            return ticket
        if self._worker is None or self._worker.done():
            raise NotReady("the model's worker is not running")
        if self.depth + len(batch) > self.bounds.queue_texts:
            raise Overloaded(f"{self.depth} texts wait already; ask again, or add a replica")
        self._waiting += [Job(tokens, ticket, index) for index, tokens in enumerate(batch)]
        self._arrived.set()
        await ticket.done
        return ticket

    async def _work(self) -> None:
        while True:
            await self._arrived.wait()
            self._drop_dead()
            if jobs := self._take():
                await self._run(jobs)
            else:
                self._arrived.clear()

    def _drop_dead(self) -> None:
        """Leave out what nobody waits for any more: the caller has gone, or its time has run out."""
        now_s = time.monotonic()
        for job in self._waiting:
            if not job.ticket.done.done() and job.ticket.deadline_s <= now_s:
                job.ticket.done.set_exception(DeadlineExceeded("the time allowed ran out before scoring began"))
        self._waiting = [job for job in self._waiting if not job.ticket.done.done()]

    def _take(self) -> list[Job]:
        if not self._waiting:
            return []
        seen = self._waiting[:LOOKAHEAD]
        bounds = self.bounds
        lengths = [len(job.tokens) for job in seen]
        chosen = next_batch(lengths, budget_tokens=bounds.budget_tokens, max_items=bounds.max_items)
        taken = set(chosen)
        self._waiting[: len(seen)] = [job for index, job in enumerate(seen) if index not in taken]
        return [seen[index] for index in chosen]

    async def _run(self, jobs: list[Job]) -> None:
        """Compute one batch. If it fails, halve it, so that one poison text costs only itself."""
        started_s = time.monotonic()
        for job in jobs:
            job.ticket.started_s = job.ticket.started_s or started_s
        try:
            rows = await self._on_device([job.tokens for job in jobs])
        except BackendFailed as error:
            if len(jobs) > 1:
                middle = len(jobs) // 2
                await self._run(jobs[:middle])
                await self._run(jobs[middle:])
            else:
                jobs[0].ticket.finish(jobs[0].index, error)
            return
        self._deliver(jobs, rows, started_s)

    async def _on_device(self, batch: list[Tokens]) -> list[Logits]:
        loop = asyncio.get_running_loop()
        with raising(BackendFailed, "the model failed on this text"):
            rows = await loop.run_in_executor(self.device, self.backend.score, batch)
            if len(rows) != len(batch):
                raise BackendFailed(f"the model gave {len(rows)} rows for {len(batch)} texts")
        return rows

    def _deliver(self, jobs: list[Job], rows: list[Logits], started_s: float) -> None:
        compute_s = time.monotonic() - started_s
        for job, row in zip(jobs, rows, strict=True):
            job.ticket.finish(job.index, row)
        for ticket in {id(job.ticket): job.ticket for job in jobs}.values():
            ticket.compute_s += compute_s
        lengths = [len(job.tokens) for job in jobs]
        wait_s = started_s - min(job.ticket.arrived_s for job in jobs)
        self.observe(BatchDone(len(jobs), sum(lengths), len(jobs) * max(lengths), wait_s, compute_s))

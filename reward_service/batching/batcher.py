"""Batch the texts of all callers of one model: a bounded queue, one worker, outcomes by index.

In: the tokens of a request's texts. Out: the logits of each, or the error that it met. While the device is busy, the
next batch forms from everything in the queue, whoever sent it; there is no batching timer. Never: a queue over its
limits, a text that is cached or in flight computed again, work for a caller that has left or whose deadline has
passed, or a score made of a number that is not finite.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from reward_service.backends.base import Backend, Logits, Tokens
from reward_service.batching.admission import (
    QUEUE_SHARE,
    Load,
    QueueLimits,
    Throughput,
    admit_or_raise,
    is_urgent,
    max_batch_s,
)
from reward_service.batching.cache import CacheLookup, LogitsCache
from reward_service.batching.device import Device
from reward_service.batching.fair_queue import SMALL_REQUEST_TEXTS, FairQueue, Key
from reward_service.batching.ticket import Job, Outcome, Ticket, finish_job
from reward_service.errors import (
    BackendFailed,
    BackendUnavailable,
    DeadlineExceeded,
    Draining,
    NotFinite,
    NotReady,
    RewardServiceError,
    translating,
)

log = logging.getLogger("reward_service")
PROBE_INTERVAL_S = 1.0
"""Time between two probes of a model that is down, in seconds."""


@dataclass(frozen=True, slots=True)
class BatchDone:
    """The event of one computed batch."""

    texts: int
    tokens: int
    padded_tokens: int
    wait_s: float
    """Queueing time of the request that waited longest."""
    compute_s: float


BatchEvent = BatchDone | CacheLookup
BatchObserver = Callable[[str, BatchEvent], None]
"""Called with a reward's name and its event."""


class Batcher:
    """The queue and the worker of one model. Models on one device take turns, batch by batch."""

    def __init__(
        self,
        backend: Backend,
        device: Device,
        limits: QueueLimits,
        cache: LogitsCache | None = None,
        observe: Callable[[BatchEvent], None] = lambda event: None,
    ) -> None:
        self._backend, self._device, self._limits, self._observe = backend, device, limits, observe
        self._cache = LogitsCache(0) if cache is None else cache  # an empty cache is falsy
        self._queue: FairQueue[Ticket] = FairQueue(limits.budget_tokens, limits.max_items, limits.padding_cost)
        self._tickets: set[Ticket] = set()
        self._arrived = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self._batch_started_s: float | None = None  # of the batch on the device
        self._throughput = Throughput()
        self._last_small_request_s = -math.inf
        self._backend_ok = True
        self._probe_input: Key | None = None  # a text that the model has computed before

    async def start(self) -> None:
        """Start the worker."""
        self._device.register(self)
        self._worker = asyncio.create_task(self._work(), name="batcher")
        self._worker.add_done_callback(self._worker_ended)

    async def stop(self) -> None:
        """Stop the worker. Queued and running texts end with `Draining`."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.cancel()
            await asyncio.wait([worker])
        self._device.unregister(self)

    def _worker_ended(self, worker: asyncio.Task[None]) -> None:
        """Finish all jobs. A worker that was not cancelled has a bug: replace it."""
        error = Draining() if worker.cancelled() else BackendUnavailable("the model's worker failed; retry")
        for job in self._queue.clear():
            finish_job(job, error)
        if worker is self._worker and not worker.cancelled():
            log.error("the model's worker failed and is restarted", exc_info=worker.exception())
            self._worker = worker.get_loop().create_task(self._work(), name="batcher")
            self._worker.add_done_callback(self._worker_ended)

    @property
    def depth(self) -> int:
        """Return the number of queued texts."""
        return len(self._queue)

    @property
    def backlog_s(self) -> float:
        """Return the estimated compute time of the queued texts, in seconds."""
        return self._throughput.seconds_for(self._queue.load.tokens)

    @property
    def healthy(self) -> bool:
        """Return whether the worker runs, the model is up, and the current batch is within its timeout."""
        started_s = self._batch_started_s
        stalled = started_s is not None and time.monotonic() - started_s > self._limits.batch_timeout_s
        return self._worker is not None and not self._worker.done() and self._backend_ok and not stalled

    def check_deadline(self, deadline_s: float) -> None:
        """Raise `Overloaded` if the queue is too long for a request with this deadline, before it is tokenized."""
        self._admit(Load(0, 0), QUEUE_SHARE * (deadline_s - time.monotonic()))

    def _admit(self, requested: Load, remaining_s: float) -> None:
        other_backlogs_s = self._device.other_backlogs_s(self)
        admit_or_raise(self._queue.load, requested, self._limits, self._throughput, remaining_s, other_backlogs_s)

    async def submit(self, batch: Sequence[Tokens], *, deadline_s: float = math.inf) -> Ticket:
        """Queue the texts of one request, and return when each has its outcome.

        Raise `Overloaded` if they do not all fit into the queue, `DeadlineExceeded` at `deadline_s` (monotonic clock),
        `BackendUnavailable` if the model is down.
        """
        loop, keys = asyncio.get_running_loop(), [tuple(tokens) for tokens in batch]
        ticket = Ticket([None] * len(keys), loop.create_future(), time.monotonic(), deadline_s, len(keys))
        missing = self._take_cached(ticket, keys)
        if not missing:
            return ticket
        if self._worker is None or self._worker.done():
            raise NotReady("the model's worker is not running")
        if not self._backend_ok:
            raise BackendUnavailable("the model is down; ask another replica")
        self._admit(self._queue.added_load(missing.values()), deadline_s - time.monotonic())
        self._queue.add(ticket, missing)
        if len(missing) <= SMALL_REQUEST_TEXTS:
            self._last_small_request_s = ticket.arrived_s
        self._arrived.set()
        await self._wait(ticket)
        for outcome in ticket.outcomes:
            if isinstance(outcome, BackendUnavailable):
                raise BackendUnavailable(str(outcome))
        return ticket

    def _take_cached(self, ticket: Ticket, keys: Sequence[Key]) -> dict[int, Key]:
        """Finish the texts in the cache. Return the others, by index."""
        missing = {}
        for index, tokens in enumerate(keys):
            logits = self._cache.get(tokens)
            if logits is None:
                missing[index] = tokens
            else:
                ticket.finish(index, logits)
        self._emit(CacheLookup(hits=len(keys) - len(missing), misses=len(missing)))
        return missing

    async def _wait(self, ticket: Ticket) -> None:
        self._tickets.add(ticket)
        try:
            async with asyncio.timeout_at(None if ticket.deadline_s == math.inf else ticket.deadline_s):
                await ticket.done
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before all texts were scored") from None
        finally:
            self._tickets.discard(ticket)
            if ticket.pending:
                self._queue.cancel(ticket)

    async def _work(self) -> None:
        while True:
            if not self._backend_ok:
                await self._wait_for_recovery()
            await self._arrived.wait()
            if jobs := self._queue.take(self._max_batch_tokens(), urgent=self._is_urgent()):
                await self._run(jobs)
            else:
                self._arrived.clear()

    def _max_batch_tokens(self) -> int:
        return self._throughput.tokens_within(max_batch_s(time.monotonic() - self._last_small_request_s))

    def _is_urgent(self) -> bool:
        remaining_s = min((ticket.deadline_s for ticket in self._tickets), default=math.inf) - time.monotonic()
        return is_urgent(self._queue.load, self._throughput, remaining_s, self._device.other_backlogs_s(self))

    async def _run(self, jobs: list[Job]) -> None:
        """Compute one batch."""
        try:
            rows, started_s, compute_s = await self._on_device([job.tokens for job in jobs])
        except BackendFailed as error:
            await self._isolate_failure(jobs, error)
            return
        self._probe_input = min((job.tokens for job in jobs), key=len)
        done = _record_batch(jobs, started_s, compute_s)
        self._throughput.record(done.tokens, done.compute_s)
        self._deliver(jobs, [_check_finite(row) for row in rows])
        self._emit(done)

    async def _isolate_failure(self, jobs: list[Job], error: BackendFailed) -> None:
        """Compute the halves of a failed batch, so that one poison text fails alone, unless the model is down."""
        if not await self._probe():
            self._backend_ok = False
            self._deliver(jobs, [BackendUnavailable(f"the model is down; {error}")] * len(jobs))
        elif len(jobs) == 1:
            self._deliver(jobs, [error])
        else:
            middle = len(jobs) // 2
            await self._run(jobs[:middle])
            await self._run(jobs[middle:])

    async def _probe(self) -> bool:
        """Return whether the model still computes a text that it has computed before."""
        try:
            return self._probe_input is None or bool(await self._on_device([self._probe_input]))
        except BackendFailed:
            return False

    async def _wait_for_recovery(self) -> None:
        """Fail all queued jobs, and probe the model until it is up."""
        log.error("the model is down: it fails on a text that it has computed before; it is probed until it recovers")
        for job in self._queue.clear():
            finish_job(job, BackendUnavailable("the model is down; ask another replica"))
        while not await self._probe():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(PROBE_INTERVAL_S)
        self._backend_ok = True
        log.info("the model has recovered")

    async def _on_device(self, batch: list[Key]) -> tuple[list[Logits], float, float]:
        """Return the logits, the start and the duration of the computation, without its wait for other models."""
        loop = asyncio.get_running_loop()
        self._batch_started_s = time.monotonic()
        try:
            with translating(BackendFailed, "the model failed on this text"):
                rows, started_s, compute_s = await loop.run_in_executor(self._device.executor, self._timed, batch)
        finally:
            self._batch_started_s = None
        if len(rows) != len(batch):
            raise BackendFailed(f"the model returned {len(rows)} rows for {len(batch)} texts")
        return rows, started_s, compute_s

    def _timed(self, batch: list[Key]) -> tuple[list[Logits], float, float]:
        started_s = time.monotonic()
        return self._backend.forward(batch), started_s, time.monotonic() - started_s

    def _deliver(self, jobs: list[Job], outcomes: Sequence[Outcome]) -> None:
        """Cache each outcome before its job is completed, so that the same text is found in one of the two."""
        for job, outcome in zip(jobs, outcomes, strict=True):
            if not isinstance(outcome, RewardServiceError):
                self._cache.put(job.tokens, outcome)
            self._queue.complete(job)
            finish_job(job, outcome)

    def _emit(self, event: BatchEvent) -> None:
        try:
            self._observe(event)
        except Exception:  # an observer must not stop the worker
            log.exception("an observer failed")


def _check_finite(row: Logits) -> Outcome:
    return row if all(map(math.isfinite, row)) else NotFinite(f"the model returned {row}")


def _record_batch(jobs: Sequence[Job], started_s: float, compute_s: float) -> BatchDone:
    """Add a batch's times to the tickets in it, and return its event."""
    tickets = {ticket for job in jobs for ticket, _ in job.waiters}
    for ticket in tickets:
        ticket.started_s = ticket.started_s or started_s
        ticket.compute_s += compute_s
    lengths = [len(job.tokens) for job in jobs]
    wait_s = started_s - min(ticket.arrived_s for ticket in tickets)
    return BatchDone(len(jobs), sum(lengths), len(jobs) * max(lengths), max(0.0, wait_s), compute_s)

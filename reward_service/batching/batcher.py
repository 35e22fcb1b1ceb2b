"""Share batches among callers: a bounded queue, one worker, results by index.

In: the tokens of a request's texts. Out: their logits, or for each text the error it met. The next batch forms while
the device is busy, from everything that waits, whoever asked; nothing waits for a timer. What is never done: more
waiting than the bounds allow, a text that is known or under way computed again, work whose caller has gone or whose
time has run out, or a score made of what is no number.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from reward_service.backends.base import Backend, Logits, Tokens
from reward_service.batching import fair_queue
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
from reward_service.batching.fair_queue import SMALL_REQUEST_TEXTS, FairQueue
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
Outcome = Logits | RewardServiceError
PROBE_INTERVAL_S = 1.0
"""So often a model that computes nothing is tried."""


@dataclass(frozen=True, slots=True)
class BatchDone:
    """What metrics and logs learn of a batch."""

    texts: int
    tokens: int
    padded_tokens: int
    wait_s: float
    compute_s: float


@dataclass(slots=True, eq=False)
class Ticket:
    """One caller's texts on their way through the queue."""

    outcomes: list[Outcome | None]
    done: asyncio.Future[None]
    arrived_s: float
    deadline_s: float
    left: int
    started_s: float | None = None
    compute_s: float = 0.0

    def finish(self, index: int, outcome: Outcome) -> None:
        """Place one result; the last one wakes the caller."""
        self.outcomes[index] = outcome
        self.left -= 1
        if self.left == 0 and not self.done.done():
            self.done.set_result(None)


Job = fair_queue.Job[Ticket]


class Batcher:
    """The queue before one model. Models on one device share it, a batch each in turn."""

    def __init__(
        self,
        backend: Backend,
        device: Device,
        limits: QueueLimits,
        cache: LogitsCache | None = None,
        observe: Callable[[BatchDone | CacheLookup], None] = lambda event: None,
    ) -> None:
        self._backend, self._device, self._limits, self._observe = backend, device, limits, observe
        self._cache = LogitsCache(0) if cache is None else cache  # an empty one is false
        self._queue: FairQueue[Ticket] = FairQueue(limits.budget_tokens, limits.max_items, limits.padding_cost)
        self._tickets: set[Ticket] = set()
        self._arrived = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self._batch_started_s: float | None = None  # when the batch that is on the device went there
        self._throughput = Throughput()
        self._last_small_request_s = -math.inf  # when the last small request came
        self._backend_ok = True
        self._probe_input: fair_queue.Key | None = (
            None  # what the model has computed: with it is seen whether it still does
        )

    async def start(self) -> None:
        """Begin to take work."""
        self._device.register(self)
        self._worker = asyncio.create_task(self._work(), name="batcher")
        self._worker.add_done_callback(self._worker_ended)

    async def stop(self) -> None:
        """End the worker; whatever still waits or runs is answered."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.cancel()
            await asyncio.wait([worker])
        self._device.unregister(self)

    def _worker_ended(self, worker: asyncio.Task[None]) -> None:
        """Answer everyone. A worker that was not told to end has met a fault of ours: another one takes its place."""
        error = Draining() if worker.cancelled() else BackendUnavailable("the model's worker has died; ask again")
        for job in self._queue.clear():
            _finish(job, error)
        if worker is self._worker and not worker.cancelled():
            log.error("the model's worker has died and is started again", exc_info=worker.exception())
            self._worker = worker.get_loop().create_task(self._work(), name="batcher")
            self._worker.add_done_callback(self._worker_ended)

    @property
    def depth(self) -> int:
        """Texts that wait."""
        return len(self._queue)

    @property
    def backlog_s(self) -> float:
        """Seconds of computing that wait."""
        return self._throughput.seconds_for(self._queue.load.tokens)

    @property
    def healthy(self) -> bool:
        """Tell whether texts are being scored: there is a worker, and the device computes and has not stalled."""
        stalled = (
            self._batch_started_s is not None
            and time.monotonic() - self._batch_started_s > self._limits.batch_timeout_s
        )
        return self._worker is not None and not self._worker.done() and self._backend_ok and not stalled

    def check_deadline(self, deadline_s: float) -> None:
        """Raise `Overloaded` where the line is too long for a caller already: nothing need be tokenized for that."""
        self._admit(Load(0, 0), QUEUE_SHARE * (deadline_s - time.monotonic()))

    def _admit(self, requested: Load, remaining_s: float) -> None:
        other_backlogs_s = self._device.other_backlogs_s(self)
        admit_or_raise(self._queue.load, requested, self._limits, self._throughput, remaining_s, other_backlogs_s)

    async def submit(self, batch: Sequence[Tokens], *, deadline_s: float = math.inf) -> Ticket:
        """Wait until every text has its outcome.

        Raises `Overloaded` if they do not all fit the queue, `DeadlineExceeded` at `deadline_s` of the loop's clock,
        `BackendUnavailable` where the model computes nothing.
        """
        loop, keys = asyncio.get_running_loop(), [tuple(tokens) for tokens in batch]
        ticket = Ticket([None] * len(keys), loop.create_future(), time.monotonic(), deadline_s, len(keys))
        unknown = self._take_cached(ticket, keys)
        if not unknown:
            return ticket
        if self._worker is None or self._worker.done():
            raise NotReady("the model's worker is not running")
        if not self._backend_ok:
            raise BackendUnavailable("the model computes nothing at the moment; ask another replica")
        self._admit(self._queue.added_load(unknown.values()), deadline_s - time.monotonic())
        self._queue.add(ticket, unknown)
        if len(unknown) <= SMALL_REQUEST_TEXTS:
            self._last_small_request_s = ticket.arrived_s
        self._arrived.set()
        await self._wait(ticket)
        for outcome in ticket.outcomes:
            if isinstance(outcome, BackendUnavailable):
                raise BackendUnavailable(str(outcome))
        return ticket

    def _take_cached(self, ticket: Ticket, keys: Sequence[fair_queue.Key]) -> dict[int, fair_queue.Key]:
        """Place what the cache knows; give the rest, by index."""
        unknown = {}
        for index, tokens in enumerate(keys):
            logits = self._cache.get(tokens)
            if logits is None:
                unknown[index] = tokens
            else:
                ticket.finish(index, logits)
        self._emit(CacheLookup(len(keys) - len(unknown), len(unknown)))
        return unknown

    async def _wait(self, ticket: Ticket) -> None:
        self._tickets.add(ticket)
        try:
            async with asyncio.timeout_at(None if ticket.deadline_s == math.inf else ticket.deadline_s):
                await ticket.done
        except TimeoutError:
            raise DeadlineExceeded("the time allowed ran out before all texts were scored") from None
        finally:
            self._tickets.discard(ticket)
            if ticket.left:
                self._queue.cancel(ticket)

    async def _work(self) -> None:
        while True:
            if not self._backend_ok:
                await self._wait_for_recovery()
            await self._arrived.wait()
            if jobs := self._queue.take(self._batch_tokens(), urgent=self._is_urgent()):
                await self._run(jobs)
            else:
                self._arrived.clear()

    async def _wait_for_recovery(self) -> None:
        """Let nobody wait for a model that computes nothing, and try it until it does."""
        log.error("the model computes nothing any more, and is tried until it does")
        for job in self._queue.clear():
            _finish(job, BackendUnavailable("the model computes nothing any more; ask another replica"))
        while not await self._probe():  # noqa: ASYNC110 - a device tells nobody
            await asyncio.sleep(PROBE_INTERVAL_S)
        self._backend_ok = True
        log.info("the model computes again")

    async def _probe(self) -> bool:
        """Tell whether the model still computes what it has computed before."""
        try:
            return self._probe_input is None or bool(await self._on_device([self._probe_input]))
        except BackendFailed:
            return False

    def _batch_tokens(self) -> int:
        return self._throughput.tokens_within(max_batch_s(time.monotonic() - self._last_small_request_s))

    def _is_urgent(self) -> bool:
        remaining_s = min((ticket.deadline_s for ticket in self._tickets), default=math.inf) - time.monotonic()
        return is_urgent(self._queue.load, self._throughput, remaining_s, self._device.other_backlogs_s(self))

    async def _run(self, jobs: list[Job]) -> None:
        """Compute one batch."""
        try:
            rows, started_s, compute_s = await self._on_device([job.tokens for job in jobs])
        except BackendFailed as error:
            await self._failed(jobs, error)
            return
        self._probe_input = min((job.tokens for job in jobs), key=len)
        done = _record_batch(jobs, started_s, compute_s)
        self._throughput.record(done.tokens, done.compute_s)
        self._deliver(jobs, [_checked(row) for row in rows])
        self._emit(done)

    async def _failed(self, jobs: list[Job], error: BackendFailed) -> None:
        """Halve a batch that failed, so that one poison text costs only itself; unless no text is at fault."""
        if not await self._probe():
            self._backend_ok = False
            self._deliver(jobs, [BackendUnavailable(f"the model computes nothing any more; {error}")] * len(jobs))
        elif len(jobs) == 1:
            self._deliver(jobs, [error])
        else:
            middle = len(jobs) // 2
            await self._run(jobs[:middle])
            await self._run(jobs[middle:])

    async def _on_device(self, batch: list[fair_queue.Key]) -> tuple[list[Logits], float, float]:
        """Give the logits, when they were begun and how long they took: behind another model's batch they only wait."""
        loop = asyncio.get_running_loop()
        self._batch_started_s = time.monotonic()
        try:
            with translating(BackendFailed, "the model failed on this text"):
                rows, started_s, compute_s = await loop.run_in_executor(self._device.executor, self._timed, batch)
        finally:
            self._batch_started_s = None
        if len(rows) != len(batch):
            raise BackendFailed(f"the model gave {len(rows)} rows for {len(batch)} texts")
        return rows, started_s, compute_s

    def _timed(self, batch: list[fair_queue.Key]) -> tuple[list[Logits], float, float]:
        started_s = time.monotonic()
        return self._backend.forward(batch), started_s, time.monotonic() - started_s

    def _deliver(self, jobs: list[Job], outcomes: Sequence[Outcome]) -> None:
        """Remember each outcome before its job is forgotten: whoever asks next finds the one or the other."""
        for job, outcome in zip(jobs, outcomes, strict=True):
            if not isinstance(outcome, RewardServiceError):
                self._cache.put(job.tokens, outcome)
            self._queue.complete(job)
            _finish(job, outcome)

    def _emit(self, event: BatchDone | CacheLookup) -> None:
        try:
            self._observe(event)
        except Exception:  # whoever listens must not stop the work
            log.exception("an observer failed")


def _checked(row: Logits) -> Outcome:
    """Let only numbers through: nothing later may make a score of what is none."""
    return row if all(map(math.isfinite, row)) else NotFinite(f"the model gave {row}")


def _finish(job: Job, outcome: Outcome) -> None:
    for ticket, index in job.waiters:
        ticket.finish(index, outcome)


def _tickets(jobs: Sequence[Job]) -> list[Ticket]:
    return list({id(ticket): ticket for job in jobs for ticket, _ in job.waiters}.values())


def _record_batch(jobs: Sequence[Job], started_s: float, compute_s: float) -> BatchDone:
    tickets = _tickets(jobs)
    for ticket in tickets:
        ticket.started_s = ticket.started_s or started_s
        ticket.compute_s += compute_s
    lengths = [len(job.tokens) for job in jobs]
    wait_s = started_s - min(ticket.arrived_s for ticket in tickets)
    return BatchDone(len(jobs), sum(lengths), len(jobs) * max(lengths), max(0.0, wait_s), compute_s)

"""The worker processes of one reward function: started when calls overlap, and again when one is lost."""

import asyncio
import logging
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from reward_service.errors import ConfigError, Draining
from reward_service.rewards.function_call import CallResult
from reward_service.rewards.function_frames import Ready, Start
from reward_service.rewards.function_process import Worker, WorkerLost

log = logging.getLogger("reward_service")


@dataclass(slots=True, eq=False)
class _Ticket:
    """A call and, while it runs, the worker that runs it."""

    payload: bytes
    limit_s: float
    worker: Worker | None = None
    number: int = 0

    async def run(self, worker: Worker) -> CallResult:
        self.worker, self.number = worker, worker.next_number()
        try:
            return await worker.call(self.payload, self.limit_s, self.number)
        finally:
            self.worker = None


class WorkerPool:
    """Calls a function in worker processes. Raise `ConfigError` if the first one cannot import it. Slow: it waits."""

    def __init__(self, name: str, start: Start, max_workers: int) -> None:
        self._name, self._start, self._max_workers = name, start, max_workers
        # the kernel ends a worker with the thread that started it: one thread, which lives as long as the pool
        self._launcher = ThreadPoolExecutor(1, thread_name_prefix=f"workers-{name}")
        self._workers: list[Worker] = []
        self._finalizer = weakref.finalize(self, _kill_all, self._workers)
        self._launches: set[asyncio.Task[None]] = set()
        self._calls: set[asyncio.Task[CallResult]] = set()
        self._waiting: set[asyncio.Future[None]] = set()
        self._alone = asyncio.Semaphore(max_workers)
        self._failure: ConfigError | None = None
        self._failures = 0
        self._closed = False
        self._workers.append(self._launcher.submit(Worker.launch, start).result())
        self.ready: Ready = self._workers[0].ready

    async def run(self, payload: bytes, limit_s: float) -> CallResult:
        """Call the function with a pickled `Call`. The limit counts from the moment that a worker takes the call.

        Raise `CallTimeout`, `WorkerLost`, `ConfigError` if no worker can be started, or `Draining`. If the caller is
        cancelled, an async function is, too; a call that goes on nevertheless holds its worker until the limit.
        """
        ticket = _Ticket(payload, limit_s)
        task = asyncio.create_task(self._run(ticket))
        self._calls.add(task)
        task.add_done_callback(self._ended)
        try:
            return await asyncio.shield(task)
        except (WorkerLost, ConfigError):
            if self._closed:
                raise Draining from None
            raise
        except asyncio.CancelledError:
            if ticket.worker is None:
                task.cancel()
            else:
                ticket.worker.cancel(ticket.number)
            raise

    def _ended(self, task: asyncio.Task[CallResult]) -> None:
        self._calls.discard(task)
        if not task.cancelled() and (error := task.exception()) and not self._closed:  # the caller may be gone
            log.warning("rewards.%s: %s", self._name, error)

    async def _run(self, ticket: _Ticket) -> CallResult:
        worker = await self._acquire()
        try:
            return await ticket.run(worker)
        except WorkerLost as lost:
            if not lost.shared or self._closed:
                raise
        finally:
            self._release(worker)
        async with self._alone:  # again, without the calls one of which has ended the worker
            worker = await self._launch()
            try:
                return await ticket.run(worker)
            finally:
                worker.kill()

    async def _acquire(self) -> Worker:
        """Wait for a worker that can take a call; start another one if all are busy."""
        failures = self._failures
        while True:
            if self._closed:
                raise Draining
            self._workers[:] = [worker for worker in self._workers if worker.alive]
            free = [worker for worker in self._workers if worker.calls < worker.capacity]
            if free:
                return await self._take(min(free, key=lambda worker: worker.calls))
            failed = self._failure if self._failures > failures else None
            if failed and not self._workers and not self._launches:
                raise failed
            if not failed:
                self._grow()
            await self._wait()

    async def _take(self, worker: Worker) -> Worker:
        worker.calls += 1
        try:
            await worker.connect()
        except BaseException:
            self._release(worker)
            raise
        return worker

    def _release(self, worker: Worker) -> None:
        worker.calls -= 1
        if not worker.alive and not self._closed:
            self._workers[:] = [other for other in self._workers if other.alive]
            if not self._workers:
                self._grow()  # the next call need not wait for an import
        self._wake()

    async def _wait(self) -> None:
        """Wait until a worker may be free."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.add(waiter)
        try:
            await waiter
        finally:
            self._waiting.discard(waiter)

    def _wake(self) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)

    def _grow(self) -> None:
        """Start another worker if there may be one."""
        if len(self._workers) + len(self._launches) < self._max_workers:
            task = asyncio.create_task(self._add_worker())
            self._launches.add(task)
            task.add_done_callback(self._launches.discard)
            task.add_done_callback(lambda _: self._wake())

    async def _add_worker(self) -> None:
        try:
            self._workers.append(await self._launch())
        except ConfigError as error:
            self._failure, self._failures = error, self._failures + 1
            log.error("rewards.%s: no worker process: %s", self._name, error)

    async def _launch(self) -> Worker:
        """Start a worker that has imported the same source as the first one. Raise `ConfigError`."""
        worker = await asyncio.wrap_future(self._launcher.submit(Worker.launch, self._start))
        if self._closed or worker.ready.revision != self.ready.revision:
            worker.kill()
            raise ConfigError(
                f"the source of {self._start.object!r} has changed since its import: reload the service to serve it"
            )
        await worker.connect()
        return worker

    async def close(self) -> None:
        """End all workers. Calls in flight raise `Draining`, which a client retries at another replica."""
        self._closed = True
        workers = list(self._workers)
        _kill_all(self._workers)
        for task in self._launches:
            task.cancel()
        self._wake()
        self._launcher.shutdown(wait=False, cancel_futures=True)
        await asyncio.gather(*(worker.ended() for worker in workers))


def _kill_all(workers: list[Worker]) -> None:
    for worker in workers:
        worker.kill()

"""The queue of one model: each distinct text once, scheduled fairly between callers. No clock, no task, no torch.

In: one caller's token sequences. Out: the next batch. Start-time fair queueing (Goyal, Vin & Cheng, SIGCOMM 1996): a
text gets its start tag on arrival, a caller's texts one token budget after another, and virtual time advances with the
work done. So a flood of texts delays another caller's single text by a few batches, and no flood of single texts keeps
a large request from finishing.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from reward_service.batch_planning import cost_tokens, next_batch, start_tags
from reward_service.batching.admission import Load

Caller = TypeVar("Caller")
Key = tuple[int, ...]
LOOKAHEAD_JOBS = 512
"""Jobs considered when a batch is planned."""
URGENT_LOOKAHEAD_BATCHES = 6
"""Batches' worth of jobs considered while a caller is near its deadline, so that requests do not all finish late."""
LOOKAHEAD_BUDGETS = 2
"""Token budgets by which a considered job's start tag may lie after the first one's: it bounds the overtaking."""
MAX_ACTIVE_CALLERS = 16
"""Callers that share virtual time: it advances no slower than with so many, so that waiting is bounded."""
SMALL_REQUEST_TEXTS = 4
"""Texts of a request up to which it is small: the next batch has all small requests if they fit."""


@dataclass(slots=True, eq=False)
class Job(Generic[Caller]):
    """One distinct text in the queue or on the device, and its waiters: (caller, index in the caller's request)."""

    tokens: Key
    start_tag: float
    waiters: list[tuple[Caller, int]]
    small: bool = False
    """Whether a small request waits for it."""


@dataclass(slots=True)
class FairQueue(Generic[Caller]):
    """Queued and running jobs. Identical texts share one job."""

    budget_tokens: int
    max_items: int
    padding_cost: float = 1.0
    _jobs: dict[Key, Job[Caller]] = field(default_factory=dict)
    _waiting: list[Job[Caller]] = field(default_factory=list)  # by start tag
    _tokens: int = 0  # of the waiting jobs
    _virtual_time: float = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def load(self) -> Load:
        """Return the load of the waiting jobs."""
        return Load(len(self._waiting), self._tokens)

    def added_load(self, batch: Iterable[Key]) -> Load:
        """Return the load that these texts would add."""
        new = {tokens for tokens in batch if tokens not in self._jobs}
        return Load(len(new), sum(map(len, new)))

    def add(self, caller: Caller, batch: Mapping[int, Key]) -> None:
        """Queue a caller's texts, by index. A text that is queued or running already gets another waiter."""
        tags = start_tags(map(len, batch.values()), self._virtual_time, self.budget_tokens)
        for (index, tokens), start_tag in zip(batch.items(), tags, strict=True):
            job = self._jobs.get(tokens)
            if job is None:
                job = self._jobs[tokens] = Job(tokens, start_tag, [])
                self._waiting.append(job)
                self._tokens += len(tokens)
            job.waiters.append((caller, index))
            job.start_tag, job.small = min(job.start_tag, start_tag), job.small or len(batch) <= SMALL_REQUEST_TEXTS
        self._waiting.sort(key=lambda job: job.start_tag)  # two sorted runs: linear

    def cancel(self, caller: Caller) -> None:
        """Remove a caller, and the waiting jobs that have no other waiter."""
        for job in self._waiting:
            job.waiters = [waiter for waiter in job.waiters if waiter[0] is not caller]
        for job in self._waiting:
            if not job.waiters:
                del self._jobs[job.tokens]
                self._tokens -= len(job.tokens)
        self._waiting = [job for job in self._waiting if job.waiters]

    def take(self, max_tokens: int | None = None, *, urgent: bool = False) -> list[Job[Caller]]:
        """Remove and return the next batch: the first job, those of small requests, and others that need least padding.

        It costs at most the budget, and at most `max_tokens` if that is less. `urgent` shortens the lookahead.
        """
        if not self._waiting:
            return []
        budget_tokens = min(self.budget_tokens, max_tokens or self.budget_tokens)
        candidates = self._candidates(URGENT_LOOKAHEAD_BATCHES * budget_tokens if urgent else sys.maxsize)
        lengths = [len(job.tokens) for job in candidates]
        chosen = next_batch(
            lengths,
            budget_tokens=budget_tokens,
            max_items=self.max_items,
            padding_cost=self.padding_cost,
            required=self._required(candidates, budget_tokens),
        )
        callers = min(MAX_ACTIVE_CALLERS, len({id(caller) for job in candidates for caller, _ in job.waiters}))
        tokens = sum(lengths[index] for index in chosen)
        self._tokens -= tokens
        self._virtual_time = max(candidates[0].start_tag, self._virtual_time + tokens / callers)
        taken = set(chosen)
        self._waiting[: len(candidates)] = [job for index, job in enumerate(candidates) if index not in taken]
        return [candidates[index] for index in chosen]

    def _candidates(self, max_tokens: int) -> list[Job[Caller]]:
        """Return the jobs to choose a batch from, in order of their start tags, at least one."""
        max_tag = self._waiting[0].start_tag + LOOKAHEAD_BUDGETS * self.budget_tokens
        candidates: list[Job[Caller]] = []
        for job in self._waiting[:LOOKAHEAD_JOBS]:
            max_tokens -= len(job.tokens)
            if candidates and (job.start_tag > max_tag or max_tokens < 0):
                break
            candidates.append(job)
        return candidates

    def _required(self, candidates: Sequence[Job[Caller]], budget_tokens: int) -> set[int]:
        """Return the indices of the jobs that the batch must hold, whatever padding they need."""
        required = {0, *(index for index, job in enumerate(candidates) if job.small)}
        lengths = [len(candidates[index].tokens) for index in required]
        fits = cost_tokens(sum(lengths), len(lengths), max(lengths), self.padding_cost) <= budget_tokens
        return required if fits and len(required) <= self.max_items else {0}

    def complete(self, job: Job[Caller]) -> None:
        """Remove a job that has its outcome. The same text is a new job from now on."""
        del self._jobs[job.tokens]

    def clear(self) -> list[Job[Caller]]:
        """Remove and return all jobs, queued and running."""
        jobs = list(self._jobs.values())
        self._jobs.clear()
        self._waiting.clear()
        self._tokens = 0
        return jobs

"""What waits before a model: each text once, in turns that are fair to every caller. No clock, no task, no torch.

In: one caller's token sequences. Out: the next batch. Callers take turns by tokens (start-time fair queueing: Goyal,
Vin & Cheng, SIGCOMM 1996): a text's turn is fixed when it arrives, its caller's own texts a batch behind a batch, and
the clock by which turns are given moves on with the work done. So a flood of texts delays another caller's single
text by a few batches, and no flood of single texts keeps a large request from ending.
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
"""At most so many of those whose turn is next are looked at when a batch is planned,"""
URGENT_LOOKAHEAD_BATCHES = 6
"""and where somebody is in a hurry no more than fill so many batches: with more there is less padding, but requests end
together, late."""
LOOKAHEAD_BUDGETS = 2
"""None is looked at whose turn is further off than so many whole budgets: what is overtaken is overtaken by little."""
MAX_ACTIVE_CALLERS = 16
"""The clock moves as if no more callers than this took turns: past it older turns win, so that waiting is bounded."""
SMALL_REQUEST_TEXTS = 4
"""Who sends no more of them wants the answer now: where all such texts fit one batch, they are its next."""


@dataclass(slots=True, eq=False)
class Job(Generic[Caller]):
    """One text on its way through the model, and everyone who waits for it: (caller, index in its request)."""

    tokens: Key
    start_tag: float
    waiters: list[tuple[Caller, int]]
    small: bool = False
    """Whether somebody waits for little else."""


@dataclass(slots=True)
class FairQueue(Generic[Caller]):
    """The texts that wait and those that are being computed. Identical ones are one job."""

    budget_tokens: int
    max_items: int
    padding_cost: float = 1.0
    _jobs: dict[Key, Job[Caller]] = field(default_factory=dict)
    _waiting: list[Job[Caller]] = field(default_factory=list)  # by turn
    _tokens: int = 0  # of those that wait
    _virtual_time: float = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    def added_load(self, batch: Iterable[Key]) -> Load:
        """Tell how much these texts would add."""
        new = {tokens for tokens in batch if tokens not in self._jobs}
        return Load(len(new), sum(map(len, new)))

    @property
    def load(self) -> Load:
        """Tell how much waits."""
        return Load(len(self._waiting), self._tokens)

    def add(self, caller: Caller, batch: Mapping[int, Key]) -> None:
        """Give each text, by its index, its turn, or a seat beside the same text that waits or runs already."""
        starts = start_tags(map(len, batch.values()), self._virtual_time, self.budget_tokens)
        for (index, tokens), start_tag in zip(batch.items(), starts, strict=True):
            job = self._jobs.get(tokens)
            if job is None:
                job = self._jobs[tokens] = Job(tokens, start_tag, [])
                self._waiting.append(job)
                self._tokens += len(tokens)
            job.waiters.append((caller, index))
            job.start_tag, job.small = min(job.start_tag, start_tag), job.small or len(batch) <= SMALL_REQUEST_TEXTS
        self._waiting.sort(key=lambda job: job.start_tag)  # two sorted runs: linear

    def cancel(self, caller: Caller) -> None:
        """Forget a caller; what nobody else waits for is not computed."""
        for job in self._waiting:
            job.waiters = [seat for seat in job.waiters if seat[0] is not caller]
        for job in self._waiting:
            if not job.waiters:
                del self._jobs[job.tokens]
                self._tokens -= len(job.tokens)
        self._waiting = [job for job in self._waiting if job.waiters]

    def take(self, max_tokens: int | None = None, *, urgent: bool = False) -> list[Job[Caller]]:
        """Take the next batch: the text whose turn it is, those of small requests, and the next that pad them least.

        It stays within the budget, and within `max_tokens` where that is less.
        """
        if not self._waiting:
            return []
        budget_tokens = min(self.budget_tokens, max_tokens or self.budget_tokens)
        candidates = self._lookahead(URGENT_LOOKAHEAD_BATCHES * budget_tokens if urgent else sys.maxsize)
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

    def _lookahead(self, max_tokens: int) -> list[Job[Caller]]:
        """Give those whose turn is next, at least one."""
        horizon = self._waiting[0].start_tag + LOOKAHEAD_BUDGETS * self.budget_tokens
        near: list[Job[Caller]] = []
        for job in self._waiting[:LOOKAHEAD_JOBS]:
            max_tokens -= len(job.tokens)
            if near and (job.start_tag > horizon or max_tokens < 0):
                break
            near.append(job)
        return near

    def _required(self, candidates: Sequence[Job[Caller]], budget_tokens: int) -> set[int]:
        """Give those that go whatever they cost in padding, by index."""
        first = {0, *(index for index, job in enumerate(candidates) if job.small)}
        real, longest = (
            sum(len(candidates[index].tokens) for index in first),
            max(len(candidates[index].tokens) for index in first),
        )
        fit = cost_tokens(real, len(first), longest, self.padding_cost) <= budget_tokens
        return first if fit and len(first) <= self.max_items else {0}

    def complete(self, job: Job[Caller]) -> None:
        """Forget a job that has its outcome: the same text would be computed anew."""
        del self._jobs[job.tokens]

    def clear(self) -> list[Job[Caller]]:
        """Give up everything that has no outcome yet."""
        left = list(self._jobs.values())
        self._jobs.clear()
        self._waiting.clear()
        self._tokens = 0
        return left

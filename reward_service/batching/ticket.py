"""What one request has in the queue: its outcomes by index, and the future that its caller awaits."""

import asyncio
from dataclasses import dataclass

from reward_service.backends.base import Logits
from reward_service.batching import fair_queue
from reward_service.errors import RewardServiceError

Outcome = Logits | RewardServiceError


@dataclass(slots=True, eq=False)
class Ticket:
    """One request in the queue, and its outcomes by index."""

    outcomes: list[Outcome | None]
    done: asyncio.Future[None]
    arrived_s: float
    deadline_s: float
    pending: int
    started_s: float | None = None
    compute_s: float = 0.0

    def finish(self, index: int, outcome: Outcome) -> None:
        """Set one outcome. The last one wakes the caller."""
        self.outcomes[index] = outcome
        self.pending -= 1
        if self.pending == 0 and not self.done.done():
            self.done.set_result(None)


Job = fair_queue.Job[Ticket]


def finish_job(job: Job, outcome: Outcome) -> None:
    """Set the outcome of a job for all its waiters."""
    for ticket, index in job.waiters:
        ticket.finish(index, outcome)

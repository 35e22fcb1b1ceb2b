"""What computes, one batch at a time, and the lines before it: models that share it take turns, a batch each."""

from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Protocol


class HasBacklog(Protocol):
    """A model's texts that wait."""

    @property
    def backlog_s(self) -> float:
        """Seconds of computing that wait."""
        ...


class Device:
    """One thread that computes. What waits before it is known to all, for none of them has it alone."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self._backlogs: set[HasBacklog] = set()

    def register(self, queue: HasBacklog) -> None:
        """Let a model's queue be seen by the others."""
        self._backlogs.add(queue)

    def unregister(self, queue: HasBacklog) -> None:
        """Forget a queue that nobody joins any more."""
        self._backlogs.discard(queue)

    def other_backlogs_s(self, queue: HasBacklog) -> Sequence[float]:
        """Give how many seconds of computing wait in each of the other lines."""
        return [other.backlog_s for other in self._backlogs if other is not queue]

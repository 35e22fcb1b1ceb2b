"""One compute thread, shared by the batchers of several models, which take turns batch by batch."""

from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Protocol


class HasBacklog(Protocol):
    """A model's queue."""

    @property
    def backlog_s(self) -> float:
        """Return the estimated compute time of the queued texts, in seconds."""
        ...


class Device:
    """The compute thread and the backlog of every model on it: a model's wait depends on the others' queues too."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self._queues: set[HasBacklog] = set()

    def register(self, queue: HasBacklog) -> None:
        """Add a model's queue."""
        self._queues.add(queue)

    def unregister(self, queue: HasBacklog) -> None:
        """Remove a model's queue."""
        self._queues.discard(queue)

    def other_backlogs_s(self, queue: HasBacklog) -> Sequence[float]:
        """Return the backlog of each of the other queues, in seconds."""
        return [other.backlog_s for other in self._queues if other is not queue]

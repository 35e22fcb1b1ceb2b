"""What computes, one batch at a time, and the lines before it: models that share it take turns, a batch each."""

from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Protocol


class Line(Protocol):
    """A model's texts that wait."""

    @property
    def backlog_s(self) -> float:
        """Seconds of computing that wait."""
        ...


class Device:
    """One thread that computes. What waits before it is known to all, for none of them has it alone."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self._lines: set[Line] = set()

    def join(self, line: Line) -> None:
        """Let a model's line be seen by the others."""
        self._lines.add(line)

    def leave(self, line: Line) -> None:
        """Forget a line that nobody joins any more."""
        self._lines.discard(line)

    def other_backlogs_s(self, line: Line) -> Sequence[float]:
        """Give how many seconds of computing wait in each of the other lines."""
        return [other.backlog_s for other in self._lines if other is not line]

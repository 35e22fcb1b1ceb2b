"""Say on stderr what is being done and how long it took. Never on stdout: that is for results."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TextIO


def say(text: str) -> None:
    """Print one line."""
    print(f"models: {text}", file=sys.stderr, flush=True)


@dataclass
class Stage:
    """One thing being done; `seconds` is known once it is done."""

    doing: str
    seconds: float = 0.0


@contextlib.contextmanager
def stage(doing: str) -> Iterator[Stage]:
    """Say what begins and, if it does not fail, how long it took."""
    say(f"{doing} …")
    begun, started = Stage(doing), time.monotonic()
    yield begun
    begun.seconds = round(time.monotonic() - started, 1)
    say(f"{doing}: done in {begun.seconds:.1f} s")


class Progress:
    """A line with percentage and remaining time: on a terminal rewritten, elsewhere one every `every_s`."""

    def __init__(
        self,
        doing: str,
        total: int,
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        every_s: float = 20.0,
    ) -> None:
        self._doing, self._total, self._clock = doing, total, clock
        self._stream = stream or sys.stderr
        self._rewrites = self._stream.isatty()
        self._every_s = 0.5 if self._rewrites else every_s
        self._started = self._told = clock()

    def step(self, done: int) -> None:
        """Tell where we are, if it is time to."""
        now = self._clock()
        if now - self._told < self._every_s and not (done == self._total and self._rewrites):
            return
        self._told = now
        line = f"models: {progress_line(self._doing, done, self._total, now - self._started)}"
        end = "\n" if done == self._total or not self._rewrites else ""
        self._stream.write(f"\r{line:<79}{end}" if self._rewrites else f"{line}\n")
        self._stream.flush()


def progress_line(doing: str, done: int, total: int, seconds: float) -> str:
    """Give `doing 43 %, 1:12 left`."""
    left = round(seconds / done * (total - done))
    return f"{doing} {100 * done // total} %, {left // 60}:{left % 60:02} left"

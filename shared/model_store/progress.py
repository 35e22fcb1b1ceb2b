"""Progress of model preparation on stderr; stdout is for results."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TextIO


def log(text: str) -> None:
    """Print one line."""
    print(f"models: {text}", file=sys.stderr, flush=True)


@dataclass
class Stage:
    """A stage of the work; `seconds` is set at its end."""

    title: str
    seconds: float = 0.0


@contextlib.contextmanager
def stage(title: str) -> Iterator[Stage]:
    """Log the start of a stage and, unless it raises, its duration."""
    log(f"{title} …")
    current, started_s = Stage(title), time.monotonic()
    yield current
    current.seconds = round(time.monotonic() - started_s, 1)
    log(f"{title}: done in {current.seconds:.1f} s")


class ProgressLine:
    """Percentage and remaining time: one line rewritten in a terminal, otherwise a new line every `interval_s`."""

    def __init__(
        self,
        title: str,
        total: int,
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        interval_s: float = 20.0,
    ) -> None:
        self._title, self._total, self._clock = title, total, clock
        self._stream = stream or sys.stderr
        self._rewrites = self._stream.isatty()
        self._interval_s = 0.5 if self._rewrites else interval_s
        self._started_s = self._updated_s = clock()

    def update(self, done: int) -> None:
        """Show the progress if the interval has passed."""
        now_s = self._clock()
        if now_s - self._updated_s < self._interval_s and not (done == self._total and self._rewrites):
            return
        self._updated_s = now_s
        line = f"models: {progress_line(self._title, done, self._total, now_s - self._started_s)}"
        end = "\n" if done == self._total or not self._rewrites else ""
        self._stream.write(f"\r{line:<79}{end}" if self._rewrites else f"{line}\n")
        self._stream.flush()


def progress_line(title: str, done: int, total: int, elapsed_s: float) -> str:
    """Return `<title> 43 %, 1:12 left`."""
    remaining_s = round(elapsed_s / done * (total - done))
    return f"{title} {100 * done // total} %, {remaining_s // 60}:{remaining_s % 60:02} left"


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Suppress the progress bars and load reports of transformers, and restore its settings at the end."""
    from transformers.utils import logging

    verbosity, shows_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shows_bars:
            logging.enable_progress_bar()

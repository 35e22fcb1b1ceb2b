"""The output of a run on stderr: a live progress bar on a terminal, elsewhere a line from time to time.

While rewards are retried, the bar shows why and how long that may go on. The warnings of the client appear as lines.
"""

import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text
from transformers import TrainerCallback

from remote_rewards.client import RewardClient
from remote_rewards.retry_log import RetryScheduled
from trainer.reporting.report_text import visible

LINE_INTERVAL_S = 20.0
"""Where there is no terminal: minimum time between two lines about the progress."""
COMPLETION_INTERVAL_STEPS = 5
"""How often a completion is shown."""
console = Console(stderr=True, soft_wrap=True)


def log(text: str) -> None:
    """Print one line, above the progress bar if there is one."""
    console.print(escape(visible(text)), highlight=False)


class ConsoleHandler(logging.Handler):
    """Prints log records as lines above the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        log(f"{record.levelname}: {record.getMessage()}")


@contextmanager
def progress_bar(title: str, client: RewardClient | None = None) -> Iterator[Callable[[int, int], None]]:
    """Show the progress of a task, and retries of a client. Yields a function that takes (done, total)."""
    with new_bar(client) as bar:
        task = bar.add_task(title, total=None, status="")
        started_s = printed_s = time.monotonic()

        def update(done: int, total: int) -> None:
            nonlocal printed_s
            bar.update(task, completed=done, total=total)
            now_s = time.monotonic()
            if not console.is_terminal and (now_s - printed_s > LINE_INTERVAL_S or done == total):
                printed_s = now_s
                log(f"  {title}: {done} of {total} after {now_s - started_s:.0f} s")

        yield update


class LiveProgress(TrainerCallback):  # type: ignore[misc]
    """Shows the metrics of each step, sometimes a completion, and retries of the client."""

    def __init__(
        self, completions: Sequence[Mapping[str, Any]], client: RewardClient, max_minutes: float | None = None
    ) -> None:
        self._completions = completions
        self._limit_s = math.inf if max_minutes is None else 60 * max_minutes
        self._bar = new_bar(client)
        self._started_s = self._printed_s = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the bar."""
        self._started_s = self._printed_s = time.monotonic()
        self._first_step = state.global_step
        self._bar.start()
        self._task = self._bar.add_task(
            "training", total=state.max_steps, completed=state.global_step, status="", limit_s=self._limit_s
        )

    def close(self) -> None:
        """Stop the bar, also after an exception, when `on_train_end` is not called."""
        self._bar.stop()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Show one step."""
        if not logs or "loss" not in logs:
            return
        status = step_line(logs)
        self._bar.update(self._task, completed=state.global_step, status=status)
        now_s = time.monotonic()
        if console.is_terminal or now_s - self._printed_s > LINE_INTERVAL_S or state.global_step == state.max_steps:
            self._printed_s = now_s
            self._print_step(state, status, now_s - self._started_s)

    def _print_step(self, state: Any, status: str, elapsed_s: float) -> None:
        steps, left = state.global_step - self._first_step, state.max_steps - state.global_step
        remaining_s = min(elapsed_s / max(1, steps) * left, max(0.0, self._limit_s - elapsed_s))
        if not console.is_terminal:
            log(f"  step {state.global_step}/{state.max_steps}  {status}  {elapsed_s:.0f} s, {remaining_s:.0f} s left")
        if state.global_step % COMPLETION_INTERVAL_STEPS == 0 and self._completions:
            best = max(self._completions, key=lambda completion: completion["advantage"])
            log(f"    {best['prompt'][:60]} → {' '.join(best['completion'].split())[:100]}")


def step_line(logs: dict[str, Any]) -> str:
    """Return the main metrics of a step as one line."""
    if "reward" not in logs:
        parts = [f"loss {logs['loss']:.3f}"]
        if "rewards/accuracies" in logs:  # of DPO
            parts.append(f"{logs['rewards/accuracies']:.0%} of the pairs in order")
        return "  ".join([*parts, f"{logs.get('seconds/step', 0):.1f} s"])
    parts = [f"reward {logs['reward']:+.2f}"]
    if logs.get("kl") is not None:
        parts.append(f"KL {logs['kl']:.3f}")
    parts.append(f"length {logs.get('completions/mean_length', 0):.0f}")
    parts.append(f"{logs.get('seconds/step', 0):.0f} s (scoring {logs.get('seconds/score', 0):.2f} s)")
    return "  ".join(parts)


class StatusColumn(ProgressColumn):
    """Shows the status of a task, and instead of it, while the client retries, why and for how much longer."""

    def __init__(self, client: RewardClient | None) -> None:
        super().__init__()
        self._client = client
        self._retry: RetryScheduled | None = None
        self._seen_s = 0.0

    def render(self, task: Task) -> Text:
        """Return the text of one refresh."""
        retry, now_s = self._client.last_retry if self._client else None, time.monotonic()
        if retry is None:
            return Text(task.fields["status"])
        if retry is not self._retry:
            self._retry, self._seen_s = retry, now_s
        return Text(retry_line(retry, elapsed_s=now_s - self._seen_s), style="yellow")


class TimeLeftColumn(TimeRemainingColumn):
    """Shows the time until a task is done, or until its `limit_s`."""

    def render(self, task: Task) -> Text:
        """Return the text of one refresh."""
        limit_s, remaining_s = task.fields.get("limit_s", math.inf), task.time_remaining
        until_limit_s = limit_s - (task.elapsed or 0.0)
        if until_limit_s >= (math.inf if remaining_s is None else remaining_s):
            return super().render(task)
        return Text(str(timedelta(seconds=max(0, int(until_limit_s)))), style="progress.remaining")


def retry_line(retry: RetryScheduled, *, elapsed_s: float) -> str:
    """Return why the run waits, and the time that is left `elapsed_s` after the retry was scheduled."""
    return f"waiting for rewards: {visible(str(retry.error))}, {max(0.0, retry.remaining_s - elapsed_s):.0f} s left"


def new_bar(client: RewardClient | None = None) -> Progress:
    """Return a progress bar whose tasks have a `status`; with a client, its retries are shown instead."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeLeftColumn(),
        StatusColumn(client),
    )
    return Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty())

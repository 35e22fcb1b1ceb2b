"""What a run shows while it runs: a live bar on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from transformers import TrainerCallback

from trainer.reporting.report_text import visible

EVERY_S = 20.0
console = Console(stderr=True, soft_wrap=True)


def say(text: str) -> None:
    """Print one line about what is being done."""
    console.print(escape(visible(text)), highlight=False)


@contextmanager
def counting(title: str) -> Iterator[Callable[[int, int], None]]:
    """Show how far a piece of work is: the function given takes (done, of)."""
    with _bar() as bar:
        task = bar.add_task(title, total=None, status="")
        began_s = said_s = time.monotonic()

        def update(done: int, of: int) -> None:
            nonlocal said_s
            bar.update(task, completed=done, total=of)
            now_s = time.monotonic()
            if not console.is_terminal and (now_s - said_s > EVERY_S or done == of):
                said_s = now_s
                say(f"  {title}: {done} of {of} after {now_s - began_s:.0f} s")

        yield update


class LiveProgress(TrainerCallback):  # type: ignore[misc]
    """Show each step's reward, and now and then a reply."""

    def __init__(self, samples: Callable[[], list[dict[str, Any]]]) -> None:
        self._samples = samples
        self._bar = _bar()
        self._began_s = self._said_s = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the bar."""
        self._began_s = self._said_s = time.monotonic()
        self._bar.start()
        self._task = self._bar.add_task("training", total=state.max_steps, completed=state.global_step, status="")

    def close(self) -> None:
        """End the bar, however training ended: `on_train_end` is called only where nothing has stopped it."""
        self._bar.stop()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Show one step."""
        if not logs or "reward" not in logs:
            return
        status = step_line(logs)
        self._bar.update(self._task, completed=state.global_step, status=status)
        now_s = time.monotonic()
        if console.is_terminal or now_s - self._said_s > EVERY_S or state.global_step == state.max_steps:
            self._said_s = now_s
            self._tell(state, status, now_s - self._began_s)

    def _tell(self, state: Any, status: str, spent_s: float) -> None:
        left_s = spent_s / max(1, state.global_step) * (state.max_steps - state.global_step)
        if not console.is_terminal:
            say(f"  step {state.global_step}/{state.max_steps}  {status}  {spent_s:.0f} s, {left_s:.0f} s left")
        if state.global_step % 5 == 0 and (samples := self._samples()):
            best = max(samples, key=lambda sample: sample["advantage"])
            say(f"    {best['prompt'][:60]} → {' '.join(best['completion'].split())[:100]}")


def step_line(logs: dict[str, Any]) -> str:
    """Say one step in a line."""
    parts = [f"reward {logs['reward']:+.2f}"]
    if logs.get("kl") is not None:
        parts.append(f"KL {logs['kl']:.3f}")
    parts.append(f"length {logs.get('completions/mean_length', 0):.0f}")
    parts.append(f"{logs.get('seconds/step', 0):.0f} s (scoring {logs.get('seconds/score', 0):.2f} s)")
    return "  ".join(parts)


def _bar() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[status]}"),
    )
    return Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty())

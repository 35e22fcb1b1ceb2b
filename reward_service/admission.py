"""Decide whether a request may wait, and say honestly when to come back. Pure: no clock, no queue.

Load is shed at the door, before anything is spent on it (Google SRE, chapter 21), and who is turned away knows how long
the line was.
"""

import sys
from dataclasses import dataclass

from reward_service.errors import Overloaded

OVERTAKEN = 3.0
"""Later texts may overtake: a wait can be so many times as long as the line was on arrival."""

LONGEST_BATCH_S = 0.1
"""A batch is to take no longer: who comes while it runs waits for its end."""
FEWEST_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much a batch may hold, how much may wait, and after how long a batch is taken for one that never ends."""

    budget_tokens: int = 4096
    max_items: int = 256
    queue_texts: int = 8192
    queue_tokens: int = 1_000_000
    stalled_after_s: float = 60.0


@dataclass(slots=True)
class Speed:
    """How fast the device is, as a moving average over batches."""

    tokens_per_s: float | None = None

    def note(self, tokens: int, seconds: float) -> None:
        """Take a batch into the average."""
        now = tokens / max(seconds, 1e-6)
        self.tokens_per_s = now if self.tokens_per_s is None else 0.8 * self.tokens_per_s + 0.2 * now

    def tokens_within(self, seconds: float) -> int:
        """Give how many tokens take so long, and never too few to compute well."""
        return max(FEWEST_TOKENS, int(self.tokens_per_s * seconds)) if self.tokens_per_s else sys.maxsize

    def seconds_for(self, tokens: int) -> float:
        """Give how long so many tokens take; nothing, while none has been measured."""
        return tokens / self.tokens_per_s if self.tokens_per_s else 0.0


@dataclass(frozen=True, slots=True)
class Load:
    """Texts and tokens: those that wait, or those that a request brings."""

    texts: int
    tokens: int


def refuse_overload(waiting: Load, asked: Load, bounds: Bounds, speed: Speed, patience_s: float) -> None:
    """Raise `Overloaded` for what does not fit, or would wait longer than its caller does.

    Where nothing waits, nothing is refused: a wrong estimate of the speed cannot lock everybody out.
    """
    wait_s = speed.seconds_for(waiting.tokens)
    too_many = waiting.texts + asked.texts > bounds.queue_texts
    too_long = waiting.tokens + asked.tokens > bounds.queue_tokens
    too_late = OVERTAKEN * wait_s + speed.seconds_for(asked.tokens) > patience_s
    if waiting.texts and (too_many or too_long or too_late):
        told = f"{waiting.texts} texts wait already, about {wait_s:.1f} s of work; ask again then, or add a replica"
        raise Overloaded(told, retry_after_s=wait_s)

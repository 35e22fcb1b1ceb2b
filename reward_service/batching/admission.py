"""Admission control: decide whether a request may queue, and when a rejected one retries. Pure: no clock, no queue.

Load is shed before any work is spent on it (Google SRE book, chapter 21), and the rejection carries the length of the
queue in seconds.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from reward_service.errors import Overloaded

OVERTAKE_FACTOR = 3.0
"""Worst-case queueing time as a multiple of the backlog on arrival: texts that arrive later may be batched earlier."""
QUEUE_SHARE = 0.97
"""Share of a caller's remaining time that it may queue before its body is read; the rest is for parsing it."""
URGENCY_FACTOR = 4.0
"""A caller is near its deadline when less than this multiple of the backlog remains to it."""
MAX_BATCH_S = 0.16
"""Longest batch, in seconds: a request that arrives while it runs waits for its end."""
MAX_BATCH_S_WITH_SMALL = 0.08
"""Longest batch, in seconds, while small requests arrive."""
RECENT_S = 1.0
"""Time after a small request, in seconds, in which another one is expected."""
MIN_BATCH_TOKENS = 512
"""Tokens that a batch may always hold, and that a throughput estimate needs: one slow small batch proves little."""


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """Limits of a batch, of the queue, and of the time that one batch may take."""

    budget_tokens: int = 4096
    max_items: int = 256
    padding_cost: float = 1.0
    """Cost of a padding token relative to a real token."""
    max_queue_texts: int = 8192
    max_queue_tokens: int = 1_000_000
    batch_timeout_s: float = 60.0


@dataclass(slots=True)
class Throughput:
    """The device's throughput: an exponentially weighted ratio of tokens to seconds, so small batches count little."""

    tokens: float = 0.0
    seconds: float = 0.0

    def record(self, tokens: int, seconds: float) -> None:
        """Add a batch, and decay the earlier ones."""
        self.tokens = 0.8 * self.tokens + tokens
        self.seconds = 0.8 * self.seconds + max(seconds, 1e-6)

    @property
    def tokens_per_s(self) -> float | None:
        """Return the throughput, None before the first batch."""
        return self.tokens / self.seconds if self.seconds else None

    def tokens_within(self, seconds: float) -> int:
        """Return how many tokens can be computed in this time, at least `MIN_BATCH_TOKENS`."""
        rate = self.tokens_per_s
        return sys.maxsize if rate is None else max(MIN_BATCH_TOKENS, int(rate * seconds))

    def seconds_for(self, tokens: int) -> float:
        """Return the estimated compute time of so many tokens, 0 before enough has been measured."""
        rate = self.tokens_per_s
        return tokens / rate if rate and self.tokens >= MIN_BATCH_TOKENS else 0.0


@dataclass(frozen=True, slots=True)
class Load:
    """Texts and tokens that are queued, or that a request adds."""

    texts: int
    tokens: int


def shared_device_s(own_s: float, other_backlogs_s: Sequence[float]) -> float:
    """Return how long `own_s` of work takes on a device shared with other models, in seconds.

    Models with a backlog take turns batch by batch, and a backlog may last as long as the own work.
    """
    return own_s * (1 + sum(other_s > 0 for other_s in other_backlogs_s))


def admit_or_raise(
    waiting: Load,
    requested: Load,
    limits: QueueLimits,
    throughput: Throughput,
    remaining_s: float,
    other_backlogs_s: Sequence[float] = (),
) -> None:
    """Raise `Overloaded` if a request does not fit into the queue, or would miss its deadline in it.

    `other_backlogs_s` has the backlog of each other model on the device. An empty queue admits everything, so a wrong
    throughput estimate cannot lock everybody out.
    """
    backlog_s = throughput.seconds_for(waiting.tokens)
    too_many = waiting.texts + requested.texts > limits.max_queue_texts
    too_long = waiting.tokens + requested.tokens > limits.max_queue_tokens
    needed_s = OVERTAKE_FACTOR * backlog_s + throughput.seconds_for(requested.tokens)
    too_late = shared_device_s(needed_s, other_backlogs_s) > remaining_s
    if waiting.texts and (too_many or too_long or too_late):
        wait_s = backlog_s + sum(min(backlog_s, other_s) for other_s in other_backlogs_s)
        message = f"{waiting.texts} texts are queued, about {wait_s:.1f} s of work; retry then, or add a replica"
        raise Overloaded(message, retry_after_s=wait_s)


def max_batch_s(since_small_s: float) -> float:
    """Return the longest duration of the next batch, by the time since the last small request, both in seconds."""
    return MAX_BATCH_S_WITH_SMALL if since_small_s < RECENT_S else MAX_BATCH_S


def is_urgent(
    waiting: Load, throughput: Throughput, remaining_s: float, other_backlogs_s: Sequence[float] = ()
) -> bool:
    """Return whether the caller with the least time remaining is near its deadline."""
    return shared_device_s(URGENCY_FACTOR * throughput.seconds_for(waiting.tokens), other_backlogs_s) > remaining_s

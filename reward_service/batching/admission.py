"""Decide whether a request may wait, and say honestly when to come back. Pure: no clock, no queue.

Load is shed at the door, before anything is spent on it (Google SRE, chapter 21), and who is turned away knows how long
the line was.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from reward_service.errors import Overloaded

MAX_TIMEOUT_S = 3600.0
"""Nobody waits longer."""
OVERTAKE_FACTOR = 3.0
"""Later texts may overtake: a wait can be so many times as long as the line was on arrival."""
QUEUE_SHARE = 0.97
"""The share of its time that a caller may wait while its texts are not read: they take some, too. Without it many would
be read in vain, each time that the line is only just short enough."""

URGENCY_FACTOR = 4.0
"""Who can wait for less than so many times the line is in a hurry: batches are planned near the front of it then."""
MAX_BATCH_S = 0.16
"""A batch is to take no longer: who comes while it runs waits for its end,"""
MAX_BATCH_S_WITH_SMALL = 0.08
"""and still less where small requests have come"""
RECENT_S = 1.0
"""within so short a time: theirs is short, too."""
MIN_BATCH_TOKENS = 512
"""A batch may always hold so many, and what fewer took is no measure of a line: one small batch that met a busy moment
would make a short line look like minutes. Where so little is known, little more than a batch waits."""


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """How much a batch may hold, how much may wait, and after how long a batch is taken for one that never ends."""

    budget_tokens: int = 4096
    max_items: int = 256
    padding_cost: float = 1.0
    """What a token of padding costs, as a share of another one."""
    max_queue_texts: int = 8192
    max_queue_tokens: int = 1_000_000
    batch_timeout_s: float = 60.0


@dataclass(slots=True)
class Throughput:
    """How fast the device is: tokens by time, over its last batches, so that a small one counts little."""

    tokens: float = 0.0
    seconds: float = 0.0

    def record(self, tokens: int, seconds: float) -> None:
        """Take a batch in; what was before counts less each time."""
        self.tokens = 0.8 * self.tokens + tokens
        self.seconds = 0.8 * self.seconds + max(seconds, 1e-6)

    @property
    def tokens_per_s(self) -> float | None:
        """Give the speed; None while nothing has been measured."""
        return self.tokens / self.seconds if self.seconds else None

    def tokens_within(self, seconds: float) -> int:
        """Give how many tokens take so long, and never too few to compute well."""
        throughput = self.tokens_per_s
        return sys.maxsize if throughput is None else max(MIN_BATCH_TOKENS, int(throughput * seconds))

    def seconds_for(self, tokens: int) -> float:
        """Give how long so many tokens take; nothing, while too little has been measured."""
        throughput = self.tokens_per_s
        return tokens / throughput if throughput and self.tokens >= MIN_BATCH_TOKENS else 0.0


@dataclass(frozen=True, slots=True)
class Load:
    """Texts and tokens: those that wait, or those that a request brings."""

    texts: int
    tokens: int


def shared_device_s(own_s: float, other_backlogs_s: Sequence[float]) -> float:
    """Give when so much work is done beside the others' lines: the device computes a batch of each in turn.

    Who has a line may be sent more, and keeps its turns for as long as one's own work takes.
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
    """Raise `Overloaded` for what does not fit, or would wait longer than its caller does.

    `other_backlogs_s` is the backlog of each other model on the device. An empty queue refuses nothing: a wrong
    estimate of the speed cannot lock everybody out.
    """
    backlog_s = throughput.seconds_for(waiting.tokens)
    wait_s = backlog_s + sum(min(backlog_s, other_s) for other_s in other_backlogs_s)
    too_many = waiting.texts + requested.texts > limits.max_queue_texts
    too_long = waiting.tokens + requested.tokens > limits.max_queue_tokens
    too_late = (
        shared_device_s(OVERTAKE_FACTOR * backlog_s + throughput.seconds_for(requested.tokens), other_backlogs_s)
        > remaining_s
    )
    if waiting.texts and (too_many or too_long or too_late):
        told = f"{waiting.texts} texts wait already, about {wait_s:.1f} s of work; ask again then, or add a replica"
        raise Overloaded(told, retry_after_s=wait_s)


def max_batch_s(since_small_s: float) -> float:
    """Give how long a batch is to take at most, so long after the last small request."""
    return MAX_BATCH_S_WITH_SMALL if since_small_s < RECENT_S else MAX_BATCH_S


def is_urgent(
    waiting: Load, throughput: Throughput, remaining_s: float, other_backlogs_s: Sequence[float] = ()
) -> bool:
    """Tell whether the line is long for the caller with the least patience."""
    return shared_device_s(URGENCY_FACTOR * throughput.seconds_for(waiting.tokens), other_backlogs_s) > remaining_s


def parse_timeout_header(header: str | None, *, now_s: float) -> float:
    """Give the moment at which the caller stops waiting, as it says, in milliseconds; none waits for ever."""
    try:
        remaining_s = float(header or "inf") / 1000
    except ValueError:
        remaining_s = math.inf
    return now_s + (MAX_TIMEOUT_S if math.isnan(remaining_s) else min(MAX_TIMEOUT_S, max(0.0, remaining_s)))

"""Choose among replicas of one service, and leave alone for a while what fails. Pure: the clock is passed in."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from remote_rewards.aimd_limit import Allowance
from remote_rewards.backoff import doubled
from shared.errors import InternalServerError

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 1.5
"""A replica that comes back is found within this time, whoever asks and however often."""
LONGEST_FULL_S = 10.0
LONGEST_BROKEN_S = 20.0
"""What answers 500 and nothing else is asked no longer: it does not restart, and would say the same for ever."""


@dataclass
class Endpoint:
    """One replica: what it has under way, when it was asked, its failures in a row, until when it is left alone."""

    url: str
    outstanding: int = 0
    probing: bool = False
    """Whether a caller finds out just now if it has come back."""
    asked_s: float = 0.0
    failures: int = 0
    closed_until_s: float = 0.0
    full_until_s: float = 0.0
    last_error: Exception | None = None
    broken_since_s: float | None = None
    """When the first of its latest answers came, where all of them were 500."""
    allowance: Allowance = field(default_factory=Allowance)

    @property
    def load(self) -> float:
        """What it has under way, as a share of what it takes at a time."""
        return self.outstanding / self.allowance.calls

    def admits(self, now_s: float) -> bool:
        """Tell whether it may be asked: one that failed lately by one caller at a time, after its pause."""
        return self.failures == 0 or (now_s >= self.closed_until_s and not self.probing)


def choose(endpoints: Sequence[Endpoint], *, now_s: float) -> Endpoint | None:
    """Give the replica with the least to do of those that may be asked, in turns where several have; or None.

    One that takes less at a time has as much to do with less. One whose queue was full is the last choice until the
    time has come that it named.
    """
    admitting = (each for each in endpoints if each.admits(now_s))
    return min(admitting, key=lambda each: (each.full_until_s > now_s, each.load, each.asked_s), default=None)


@contextmanager
def under_way(endpoint: Endpoint, *, now_s: float) -> Iterator[Endpoint]:
    """Count a call from the moment its replica is chosen: who chooses next sees it, and does not probe the same one."""
    probes = endpoint.failures > 0
    endpoint.probing = endpoint.probing or probes
    endpoint.outstanding += 1
    endpoint.asked_s = now_s
    try:
        yield endpoint
    finally:
        endpoint.outstanding -= 1
        endpoint.probing = endpoint.probing and not probes


def pause_s(endpoints: Sequence[Endpoint], *, now_s: float, shortest_s: float = 0.02) -> float:
    """Give how long to wait before choosing again where none may be asked."""
    return max(shortest_s, min(each.closed_until_s for each in endpoints) - now_s)


def at_once(others: Sequence[Endpoint], *, now_s: float) -> bool:
    """Tell whether one of the others may be asked without waiting."""
    return any(each.admits(now_s) and each.full_until_s <= now_s for each in others)


def ends_s(endpoints: Sequence[Endpoint], *, began_s: float, deadline_s: float) -> float:
    """Give when a call is given up: at its deadline, or sooner where each of these replicas answers 500 all the time.

    A call asks for a while itself, however long they are known to be broken: it may be over now.
    """
    since_s = [each.broken_since_s for each in endpoints if each.broken_since_s is not None]
    if not since_s or len(since_s) < len(endpoints):
        return deadline_s
    return min(deadline_s, max(began_s, *since_s) + LONGEST_BROKEN_S)


def full(endpoint: Endpoint, retry_after_s: float | None, *, now_s: float) -> None:
    """Note that a replica has too much to do, and until when: that is no fault."""
    endpoint.full_until_s = now_s + min(LONGEST_FULL_S, retry_after_s or 0.0)
    endpoint.broken_since_s = None


def failed(endpoint: Endpoint, error: Exception, *, now_s: float) -> None:
    """Leave a replica alone: twice as long after each failure in a row."""
    endpoint.closed_until_s = now_s + min(LONGEST_PAUSE_S, doubled(FIRST_PAUSE_S, endpoint.failures))
    endpoint.failures += 1
    endpoint.last_error = error
    first_s = now_s if endpoint.broken_since_s is None else endpoint.broken_since_s
    endpoint.broken_since_s = first_s if isinstance(error, InternalServerError) else None


def answered(endpoint: Endpoint) -> None:
    """Take a replica back that has answered."""
    endpoint.failures, endpoint.closed_until_s, endpoint.last_error, endpoint.broken_since_s = 0, 0.0, None, None

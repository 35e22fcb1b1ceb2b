"""Choose among replicas of one service, and leave alone for a while what fails. Pure: the clock is passed in."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from shared.allowance import Allowance
from shared.backoff import doubled

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 1.5
"""A replica that comes back is found within this time, whoever asks and however often."""
LONGEST_FULL_S = 10.0


@dataclass
class Endpoint:
    """One replica: what it has under way, when it was asked, its failures in a row, until when it is left alone."""

    url: str
    outstanding: int = 0
    asked_s: float = 0.0
    failures: int = 0
    closed_until_s: float = 0.0
    full_until_s: float = 0.0
    last_error: Exception | None = None
    allowance: Allowance = field(default_factory=Allowance)

    @property
    def load(self) -> float:
        """What it has under way, as a share of what it takes at a time."""
        return self.outstanding / self.allowance.calls

    def admits(self, now_s: float) -> bool:
        """Tell whether it may be asked: one that failed lately by one caller at a time, after its pause."""
        return self.failures == 0 or (now_s >= self.closed_until_s and self.outstanding == 0)


def choose(endpoints: Sequence[Endpoint], *, now_s: float) -> Endpoint | None:
    """Give the replica with the least to do of those that may be asked, in turns where several have; or None.

    One that takes less at a time has as much to do with less. One whose queue was full is the last choice until the
    time has come that it named.
    """
    admitting = (each for each in endpoints if each.admits(now_s))
    return min(admitting, key=lambda each: (each.full_until_s > now_s, each.load, each.asked_s), default=None)


def pause_s(endpoints: Sequence[Endpoint], *, now_s: float, shortest_s: float = 0.02) -> float:
    """Give how long to wait before choosing again where none may be asked."""
    return max(shortest_s, min(each.closed_until_s for each in endpoints) - now_s)


def at_once(others: Sequence[Endpoint], *, now_s: float) -> bool:
    """Tell whether one of the others may be asked without waiting."""
    return any(each.admits(now_s) and each.full_until_s <= now_s for each in others)


def full(endpoint: Endpoint, retry_after_s: float | None, *, now_s: float) -> None:
    """Note that a replica has too much to do, and until when: that is no fault."""
    endpoint.full_until_s = now_s + min(LONGEST_FULL_S, retry_after_s or 0.0)


def failed(endpoint: Endpoint, error: Exception, *, now_s: float) -> None:
    """Leave a replica alone: twice as long after each failure in a row."""
    endpoint.closed_until_s = now_s + min(LONGEST_PAUSE_S, doubled(FIRST_PAUSE_S, endpoint.failures))
    endpoint.failures += 1
    endpoint.last_error = error


def answered(endpoint: Endpoint) -> None:
    """Take a replica back that has answered."""
    endpoint.failures, endpoint.closed_until_s, endpoint.last_error = 0, 0.0, None

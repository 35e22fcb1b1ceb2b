"""Log retries, and pass them to an observer, so that whoever waits for scores sees why."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from shared.errors import RewardError

logger = logging.getLogger("remote_rewards")


@dataclass(frozen=True, slots=True)
class RetryScheduled:
    """An event: after `attempt` failed attempts a call waits `delay_s` for its next one, within `remaining_s`.

    `endpoint` is the URL that failed, or all URLs of the client if none of its endpoints is available.
    """

    endpoint: str
    error: RewardError
    attempt: int
    delay_s: float
    remaining_s: float

    def __str__(self) -> str:
        return f"retry {self.attempt} in {self.delay_s:.1f} s: {self.error}; {self.remaining_s:.0f} s left"


class RetryLog:
    """Counts and logs the retries of a client, and passes them to its observer."""

    def __init__(self, on_retry: Callable[[RetryScheduled], None] | None = None) -> None:
        self._on_retry = on_retry
        self.retries = 0
        """Failed attempts that were retried."""
        self.last_retry: RetryScheduled | None = None
        """The latest event; None once an attempt has succeeded."""

    def record(self, event: RetryScheduled) -> None:
        """Log an event and call the observer, whose errors are logged."""
        self.last_retry = event
        logger.warning("%s", event)
        if self._on_retry is not None:
            try:
                self._on_retry(event)
            except Exception:  # an observer must not break the call
                logger.exception("the on_retry observer failed")

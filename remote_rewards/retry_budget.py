"""How many attempts may be second attempts. Pure: counting only.

A bucket of tokens, as in gRPC's retry throttling (proposal A6): a retry takes one, an answer gives a part of one back.
When they are spent nothing is given up, but retries come slowly: callers must not keep a sick service down.
"""

from dataclasses import dataclass

MOST = 10.0
BACK = 0.3
"""What an answer gives back: in the long run three of ten calls may be made again at once."""
SLOW_S = 1.5
"""Within so long a retry comes when the tokens are spent."""


@dataclass(slots=True)
class RetryBudget:
    """The tokens of one client."""

    tokens: float = MOST

    def take(self) -> bool:
        """Take a token, and tell whether there was one."""
        if self.tokens < 1.0:
            return False
        self.tokens -= 1.0
        return True

    def answered(self) -> None:
        """Give a part of one back."""
        self.tokens = min(MOST, self.tokens + BACK)

"""How many calls may be under way to one replica. Pure: counting only.

Each answer allows a little more, a refusal half as many: so TCP finds out what a network takes (Chiu and Jain, 1989).
"""

from dataclasses import dataclass

AT_ONCE = 16
"""At most so many: enough to fill a service's batches."""


@dataclass(slots=True)
class Allowance:
    """What one replica takes from one client at a time: `calls`, of which whole ones count."""

    calls: float = AT_ONCE
    halvings: int = 0
    """How many there have been. A call notes it when it is sent, so that it can be told what its refusal is about."""

    def answered(self) -> None:
        """Allow one more for each round of answers."""
        self.calls = min(AT_ONCE, self.calls + 1 / self.calls)

    def refused(self, sent_after: int) -> None:
        """Allow half as many, unless that was done since the call was sent: its refusal says nothing new then."""
        if sent_after == self.halvings:
            self.calls = max(1.0, self.calls / 2)
            self.halvings += 1

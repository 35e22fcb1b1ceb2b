"""Choose among replicas of one service. Pure: the clock is passed in."""

from dataclasses import dataclass, field


@dataclass
class Endpoint:
    """One replica: what it has under way, and until when it is left alone."""

    url: str
    outstanding: int = 0
    ejected_until_s: float = 0.0
    failures: int = field(default=0)


def choose(endpoints: list[Endpoint], *, now_s: float) -> Endpoint:
    """Give the replica with the least under way; one that failed lately only if all did."""
    return min(endpoints, key=lambda endpoint: (endpoint.ejected_until_s > now_s, endpoint.outstanding))


def failed(endpoint: Endpoint, *, now_s: float, first_s: float = 1.0, cap_s: float = 30.0) -> None:
    """Leave a replica alone for a while: twice as long after each failure in a row."""
    endpoint.ejected_until_s = now_s + min(cap_s, first_s * 2.0**endpoint.failures)
    endpoint.failures += 1


def answered(endpoint: Endpoint) -> None:
    """Take a replica back that has answered."""
    endpoint.failures, endpoint.ejected_until_s = 0, 0.0

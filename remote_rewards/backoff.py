"""How long to wait before asking again. Pure: no clock, no randomness, no sleep."""

MOST_DOUBLINGS = 30
"""A wait doubles no further: past it every cap is reached, and past a thousand there is no such number."""


def doubled(first_s: float, times: int) -> float:
    """Give a time doubled so many times, or about as long as there is any."""
    return first_s * 2.0 ** min(times, MOST_DOUBLINGS)


def delay_s(
    attempt: int,
    *,
    fraction: float,
    retry_after_s: float | None = None,
    first_s: float = 0.2,
    cap_s: float = 10.0,
) -> float:
    """Give the seconds to wait after failed attempt number `attempt` (from 0).

    Exponential backoff with full jitter (Brooker, "Exponential Backoff and Jitter", 2015): the caller passes
    `fraction`, uniform in [0, 1). A `Retry-After` of the service is a floor, capped like everything else.
    """
    jittered = min(cap_s, doubled(first_s, attempt)) * fraction
    return min(cap_s, max(jittered, retry_after_s or 0.0))

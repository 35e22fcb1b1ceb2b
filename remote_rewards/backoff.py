"""How long to wait before the next attempt."""

MAX_EXPONENT = 30


def exponential_s(base_s: float, exponent: int) -> float:
    """Return `base_s` doubled `exponent` times; the exponent is capped, so that the result is always a float."""
    return base_s * 2.0 ** min(exponent, MAX_EXPONENT)


def backoff_s(
    attempt: int, *, fraction: float, retry_after_s: float | None = None, base_s: float = 0.2, max_s: float = 10.0
) -> float:
    """Return the delay after failed attempt number `attempt` (from 0).

    Exponential backoff with full jitter (Brooker, "Exponential Backoff and Jitter", 2015): the caller passes
    `fraction`, uniform in [0, 1). `Retry-After` is a lower bound, up to `max_s`.
    """
    return min(max_s, max(min(max_s, exponential_s(base_s, attempt)) * fraction, retry_after_s or 0.0))

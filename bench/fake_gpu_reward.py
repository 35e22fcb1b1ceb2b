"""A reward that only waits, as one would for a GPU far away: it scores 16 texts in 20 ms, one batch at a time."""

import threading
import time

SECONDS_A_TEXT = 0.02 / 16
_DEVICE = threading.Lock()


def distant(completions, **_):
    """Give every text 1.0 after the time that a distant GPU would take."""
    with _DEVICE:
        time.sleep(SECONDS_A_TEXT * len(completions))
    return [1.0] * len(completions)

"""A reward that sleeps as long as a remote GPU would compute: 20 ms for 16 texts, one batch at a time."""

import threading
import time

SECONDS_PER_TEXT = 0.02 / 16
_DEVICE = threading.Lock()


def fake_gpu(completions, **_):
    """Return 1.0 for every completion after the time that a GPU would take."""
    with _DEVICE:
        time.sleep(SECONDS_PER_TEXT * len(completions))
    return [1.0] * len(completions)

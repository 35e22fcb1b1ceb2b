"""Remember what a model said of a text. A revision has a cache of its own, so two revisions never mix.

In: texts and what the model made of them. Out: the same again. Never: more than `most` texts, or a text itself: its
128-bit hash is kept, with no way back.
"""

from collections import OrderedDict
from dataclasses import dataclass
from hashlib import blake2b

from reward_service.backends.base import Logits


@dataclass(frozen=True, slots=True)
class Reading:
    """What the model made of a text, and whether it saw only a part of it."""

    logits: Logits
    truncated: bool


@dataclass(frozen=True, slots=True)
class CacheUse:
    """What metrics learn of one request: texts found, and texts looked for in vain."""

    hits: int
    misses: int


class ReadingCache:
    """Readings by text; the one not asked for longest goes first. About 400 bytes each."""

    def __init__(self, most: int) -> None:
        self._most, self._readings = most, OrderedDict[bytes, Reading]()

    def __len__(self) -> int:
        return len(self._readings)

    def get(self, text: str) -> Reading | None:
        """Give what is known of a text."""
        key = _key(text)
        reading = self._readings.get(key)
        if reading is not None:
            self._readings.move_to_end(key)
        return reading

    def put(self, text: str, reading: Reading) -> None:
        """Keep a reading, in the place of the oldest where there is no room."""
        if self._most > 0:
            self._readings[_key(text)] = reading
            if len(self._readings) > self._most:
                self._readings.popitem(last=False)


def _key(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()

"""Cache a model's logits by token sequence. Each model has a cache of its own, so two revisions never mix.

In: token sequences and their logits. Out: the same logits. Never: more than `max_entries` of them, or the tokens
themselves: only their 128-bit hash is kept, which cannot be reversed.
"""

from array import array
from collections import OrderedDict
from dataclasses import dataclass
from hashlib import blake2b

from reward_service.backends.base import Logits, Tokens


@dataclass(frozen=True, slots=True)
class CacheLookup:
    """The event of one request's lookup: texts with a cache hit, and with a miss."""

    hits: int
    misses: int


class LogitsCache:
    """An LRU cache of logits. An entry takes about 400 bytes."""

    def __init__(self, max_entries: int) -> None:
        self._max_entries, self._logits = max_entries, OrderedDict[bytes, Logits]()

    def __len__(self) -> int:
        return len(self._logits)

    def get(self, tokens: Tokens) -> Logits | None:
        """Return the logits of a sequence, None if they are not cached."""
        key = _key(tokens)
        logits = self._logits.get(key)
        if logits is not None:
            self._logits.move_to_end(key)
        return logits

    def put(self, tokens: Tokens, logits: Logits) -> None:
        """Add logits, and evict the least recently used entry if the cache is full."""
        if self._max_entries > 0:
            self._logits[_key(tokens)] = logits
            if len(self._logits) > self._max_entries:
                self._logits.popitem(last=False)


def _key(tokens: Tokens) -> bytes:
    return blake2b(array("q", tokens).tobytes(), digest_size=16).digest()

"""Cache a model's logits by token sequence. Each model has a cache of its own, so two revisions never mix.

In: token sequences and their logits. Out: the same logits. Never: more than `max_entries` of them, or the tokens
themselves: only their 128-bit hash is kept, which cannot be reversed.
"""

from array import array
from collections import OrderedDict
from dataclasses import dataclass
from hashlib import blake2b

from reward_service.backends.base import Logits, Tokens

ENTRY_BYTES = 400
"""Memory of an entry with up to 50 outputs."""


@dataclass(frozen=True, slots=True)
class CacheLookup:
    """The event of one request's lookup: texts with a cache hit, and with a miss."""

    hits: int
    misses: int


class LogitsCache:
    """An LRU cache of logits. An entry takes about `ENTRY_BYTES`, or 8 bytes an output if that is more."""

    def __init__(self, max_entries: int) -> None:
        self._max_entries = max_entries
        self._logits: OrderedDict[bytes, array[float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._logits)

    def get(self, tokens: Tokens) -> Logits | None:
        """Return the logits of a sequence, None if they are not cached."""
        key = _key(tokens)
        logits = self._logits.get(key)
        if logits is not None:
            self._logits.move_to_end(key)
        return None if logits is None else logits.tolist()

    def put(self, tokens: Tokens, logits: Logits) -> None:
        """Add logits, and evict the least recently used entry if the cache is full."""
        if self._max_entries > 0:
            self._logits[_key(tokens)] = array("d", logits)
            if len(self._logits) > self._max_entries:
                self._logits.popitem(last=False)


def max_entries(texts: int, outputs: int) -> int:
    """Return how many entries of so many outputs take the memory of `texts` usual ones: an embedding has hundreds."""
    return texts * ENTRY_BYTES // max(ENTRY_BYTES, 8 * outputs)


def _key(tokens: Tokens) -> bytes:
    return blake2b(array("q", tokens).tobytes(), digest_size=16).digest()

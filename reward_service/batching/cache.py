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
    """What metrics learn of one request: texts found, and texts looked for in vain."""

    hits: int
    misses: int


class LogitsCache:
    """Logits by tokens; those not asked for longest go first. About 400 bytes each."""

    def __init__(self, max_entries: int) -> None:
        self._max_entries, self._logits = max_entries, OrderedDict[bytes, Logits]()

    def __len__(self) -> int:
        return len(self._logits)

    def get(self, tokens: Tokens) -> Logits | None:
        """Give what is known of a sequence."""
        key = _key(tokens)
        logits = self._logits.get(key)
        if logits is not None:
            self._logits.move_to_end(key)
        return logits

    def put(self, tokens: Tokens, logits: Logits) -> None:
        """Keep logits, in the place of the oldest where there is no room."""
        if self._max_entries > 0:
            self._logits[_key(tokens)] = logits
            if len(self._logits) > self._max_entries:
                self._logits.popitem(last=False)


def _key(tokens: Tokens) -> bytes:
    return blake2b(array("q", tokens).tobytes(), digest_size=16).digest()

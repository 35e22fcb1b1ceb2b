"""A reward whose texts a batcher computes: its queue is the batcher's."""

import hashlib
import json
from collections.abc import Sequence
from typing import Protocol

from reward_service.batching.batcher import Batcher
from reward_service.batching.ticket import Ticket
from reward_service.rewards.base import Reward, Scores
from reward_service.specs import TextModelSpec
from shared.schemas import EngineInfo


class HasFingerprint(Protocol):
    """A model with a hash of its files and of how it reads."""

    fingerprint: str


class BatchedReward(Reward):
    """The part of a model reward that does not depend on what the model's outputs mean."""

    def __init__(self, spec: TextModelSpec, batcher: Batcher) -> None:
        self._after, self._batcher = spec.after, batcher

    @property
    def depth(self) -> int:
        """Return the number of queued texts."""
        return self._batcher.depth

    @property
    def backlog_s(self) -> float:
        """Return the estimated compute time of the queued texts, in seconds."""
        return self._batcher.backlog_s

    @property
    def healthy(self) -> bool:
        """Return whether the batcher is working."""
        return self._batcher.healthy

    @property
    def canary_prefix(self) -> str:
        """Return the tag after which the reward reads."""
        return self._after or ""

    async def start(self) -> None:
        """Start the batcher."""
        await self._batcher.start()

    async def stop(self) -> None:
        """Stop the batcher. Queued texts end with an error."""
        await self._batcher.stop()

    def check_deadline(self, deadline_s: float) -> None:
        """Raise `Overloaded` if the queue is too long for this deadline."""
        self._batcher.check_deadline(deadline_s)


def record_times(ticket: Ticket, result: Scores) -> None:
    """Set the queueing and computing time of a request's texts."""
    result.queue_ms = ((ticket.started_s or ticket.arrived_s) - ticket.arrived_s) * 1000
    result.compute_ms = ticket.compute_s * 1000


def revision(
    spec: TextModelSpec, model: HasFingerprint, engine: EngineInfo, numeric_settings: Sequence[float | str] = ()
) -> str:
    """Hash all that the scores depend on: weights, tokenizer, engine, and the mapping from outputs to rewards."""
    mapping = spec.model_dump(
        mode="json", exclude={"description", "aliases", "model", "max_batch_tokens", "backend", "dtype"}
    )
    computed_by = [engine.backend, engine.dtype, engine.deterministic, *numeric_settings]
    content = json.dumps([model.fingerprint, computed_by, mapping], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:32]

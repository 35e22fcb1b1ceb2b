"""Score with the cosine of two embeddings: each distinct text of a request is tokenized and computed once.

In: the completions of a request, and its prompts or a column. Out: a cosine for each item, from -1 to 1. All texts go
through the same queue and batches as those of other models.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from reward_service.backends.base import Encoded, Logits, ModelInput
from reward_service.backends.sentence_config import SentenceConfig
from reward_service.backends.text_encoder import TextEncoder
from reward_service.batching.batcher import Batcher
from reward_service.batching.fair_queue import Key
from reward_service.batching.ticket import Outcome
from reward_service.errors import (
    BackendFailed,
    ConfigError,
    EmptyInput,
    NotFinite,
    RewardServiceError,
    translating,
)
from reward_service.rewards.base import Items, Scores, all_failed, column_errors
from reward_service.rewards.batched import BatchedReward, record_times, revision
from reward_service.rewards.comparing import TO_PROMPT, Compared, prefixes_for, read_compared
from reward_service.specs import SimilaritySpec
from shared.schemas import EngineInfo, ItemError, RewardInfo

Embedding = NDArray[np.float64]


class SentenceModel(Protocol):
    """An encoder's tokenizer, limits, and how it makes one embedding of a text."""

    max_tokens: int
    fingerprint: str
    encoder: TextEncoder
    sentence: SentenceConfig | None


@dataclass(frozen=True, slots=True)
class Pair:
    """The tokens of the two texts of one item, the completion's first."""

    keys: tuple[Key, Key]
    truncated: bool
    overlong: bool


class SimilarityReward(BatchedReward):
    """The cosine of the embeddings of completion and prompt, or of completion and a column."""

    def __init__(
        self,
        name: str,
        spec: SimilaritySpec,
        model: SentenceModel,
        batcher: Batcher,
        engine: EngineInfo,
        numeric_settings: Sequence[float | str] = (),
    ) -> None:
        super().__init__(spec, batcher)
        if model.sentence is None:
            raise ConfigError(f"rewards.{name}: {spec.model} was opened as a classifier, not as an encoder")
        self._spec, self._encoder, self._sentence = spec, model.encoder, model.sentence
        self._prefixes = prefixes_for(spec, model.sentence)
        self._empty = _tokens_of(model.encoder, [self._prefixes.completion, self._prefixes.to])
        self.info = RewardInfo(
            name=name,
            kind=spec.kind,
            description=spec.description,
            revision=f"sha256:{revision(spec, model, engine, numeric_settings)}",
            range=(-1.0, 1.0),
            max_tokens=model.max_tokens,
            columns=[] if spec.to == TO_PROMPT else [spec.to],
            reads_prompts=spec.to == TO_PROMPT,
            engine=engine,
        )

    @property
    def accepts_canary(self) -> bool:
        """Return whether the canary has what the completion is compared with: it has a prompt and no column."""
        return self.info.reads_prompts

    async def score(self, items: Items) -> Scores:
        """Score every item. One of which a text cannot be read, or fails in the model, gets an error of its own."""
        if self.info.reads_prompts and items.prompts is None:
            return all_failed(len(items), "prompt_needed", f"{self.info.name} reads the prompt too: send `prompts`")
        if failed := column_errors(self.info, items):
            return failed
        self.check_deadline(items.deadline_s)
        pairs = await asyncio.to_thread(self._read, items)
        distinct = list(dict.fromkeys(key for pair in pairs if isinstance(pair, Pair) for key in pair.keys))
        ticket = await self._batcher.submit(distinct, deadline_s=items.deadline_s)
        outcomes = dict(zip(distinct, ticket.outcomes, strict=True))
        scores = await asyncio.to_thread(_scores, pairs, outcomes)
        result = _result(pairs, scores)
        record_times(ticket, result)
        return result

    def _read(self, items: Items) -> list[Pair | RewardServiceError]:
        """Return the tokens that are compared of each item, or the error that it has none."""
        compared = read_compared(self._spec, items, self._prefixes, lower_case=self._sentence.lower_case)
        distinct = list(dict.fromkeys(text for item in compared if isinstance(item, Compared) for text in item.texts))
        with translating(BackendFailed, "the tokenizer failed"):
            encoded = dict(zip(distinct, self._encoder.encode([*map(ModelInput, distinct)]), strict=True))
        return [self._pair(item, encoded) if isinstance(item, Compared) else item for item in compared]

    def _pair(self, item: Compared, encoded: Mapping[str, Encoded | RewardServiceError]) -> Pair | RewardServiceError:
        completion, other = (encoded[text] for text in item.texts)
        if isinstance(completion, RewardServiceError):
            return completion
        if isinstance(other, RewardServiceError):
            return other
        keys = tuple(completion.tokens), tuple(other.tokens)
        if any(key in self._empty for key in keys):
            return EmptyInput("the model's tokenizer finds no token in one of the two texts")
        truncated = item.cut or completion.truncated or other.truncated
        return Pair(keys, truncated, overlong=completion.overlong)


def cosine(first: Logits, second: Logits) -> float:
    """Return the cosine of two embeddings. Raise `NotFinite` if one of them is zero."""
    score = _cosine(_unit(first), _unit(second))
    if isinstance(score, RewardServiceError):
        raise score
    return score


def _scores(
    pairs: Sequence[Pair | RewardServiceError], outcomes: Mapping[Key, Outcome | None]
) -> list[float | RewardServiceError]:
    """Return each item's cosine, or the reason that it has none."""
    units = {key: _unit(outcome) for key, outcome in outcomes.items()}
    return [
        pair if isinstance(pair, RewardServiceError) else _cosine(*(units[key] for key in pair.keys)) for pair in pairs
    ]


def _unit(outcome: Outcome | None) -> Embedding | RewardServiceError:
    """Return an embedding scaled to unit length, (features,)."""
    if outcome is None:
        return BackendFailed("the model returned nothing for this text")
    if isinstance(outcome, RewardServiceError):
        return outcome
    embedding = np.asarray(outcome, dtype=np.float64)
    length = np.linalg.norm(embedding)
    return embedding / length if length > 0 else NotFinite("the embedding of this text is zero: it has no direction")


def _cosine(
    first: Embedding | RewardServiceError, second: Embedding | RewardServiceError
) -> float | RewardServiceError:
    if isinstance(first, RewardServiceError):
        return first
    if isinstance(second, RewardServiceError):
        return second
    return min(1.0, max(-1.0, float(first @ second)))  # rounding may exceed 1


def _result(pairs: Sequence[Pair | RewardServiceError], scores: Sequence[float | RewardServiceError]) -> Scores:
    result = Scores(scores=[], details=[None] * len(scores))
    for index, (pair, score) in enumerate(zip(pairs, scores, strict=True)):
        result.scores.append(None if isinstance(score, RewardServiceError) else score)
        result.tokens.append(sum(map(len, pair.keys)) if isinstance(pair, Pair) else 0)
        if isinstance(score, RewardServiceError):
            result.errors[index] = ItemError(code=score.code, message=str(score))
        elif isinstance(pair, Pair):
            result.truncated += [index] if pair.truncated else []
            result.overlong += [index] if pair.overlong else []
    return result


def _tokens_of(encoder: TextEncoder, texts: Sequence[str]) -> set[Key]:
    """Return the tokens of the prefixes alone, which say nothing."""
    return {tuple(item.tokens) for item in encoder.encode([*map(ModelInput, texts)]) if isinstance(item, Encoded)}

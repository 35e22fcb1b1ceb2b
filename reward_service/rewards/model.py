"""Serve a model: classifier or regressor. Look texts up, encode the new ones once, share batches, read the scores."""

import asyncio
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from reward_service.backends.base import Encoded, Logits
from reward_service.batching import Batcher, Outcome
from reward_service.cache import CacheUse, Reading, ReadingCache
from reward_service.config import ClassifierSpec, RegressorSpec
from reward_service.errors import BackendFailed, ConfigError, RewardServiceError
from reward_service.rewards.base import Items, Scores
from shared.schemas import EngineInfo, ItemError, RewardInfo, Text


class TextModel(Protocol):
    """What a model reward asks of its backend, beyond what batching asks."""

    labels: Sequence[str]
    max_tokens: int
    multi_label: bool
    fingerprint: str

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Tokenize."""
        ...

    def chat(self, prompt: Any, completion: Any) -> str:
        """Lay out prompt and completion in the model's chat template."""
        ...

    @property
    def has_chat_template(self) -> bool:
        """Tell whether `chat` can be used."""
        ...


class ModelReward:
    """A classifier or a regressor behind a cache and a batcher."""

    def __init__(
        self,
        name: str,
        spec: ClassifierSpec | RegressorSpec,
        model: TextModel,
        batcher: Batcher,
        cache: ReadingCache,
        engine: EngineInfo,
        observe: Callable[[CacheUse], None] = lambda use: None,
    ) -> None:
        check(name, spec, model)
        self._spec, self._model, self._batcher = spec, model, batcher
        self._cache, self._observe = cache, observe
        self.info = RewardInfo(
            name=name,
            kind=spec.kind,
            description=spec.description,
            revision=f"sha256:{revision(spec, model, engine)}",
            range=value_range(spec, model.labels),
            max_tokens=model.max_tokens,
            engine=engine,
        )

    @property
    def depth(self) -> int:
        """Texts that wait."""
        return self._batcher.depth

    async def start(self) -> None:
        """Begin to take work."""
        await self._batcher.start()

    async def stop(self) -> None:
        """Answer what waits and end."""
        await self._batcher.stop()

    async def score(self, items: Items) -> Scores:
        """Score every item; one that the model fails on has an error of its own."""
        if self._spec.input == "chat" and items.prompts is None:
            return _all_failed(len(items), "prompt_needed", f"{self.info.name} reads the prompt too: send `prompts`")
        texts, cut = await self._texts(items)
        result = Scores(scores=[], details=[])
        readings = await self._read(texts, items.deadline_s, result)
        for index, text in enumerate(texts):
            self._place(readings[text], index, result, cut=cut[index])
        return result

    async def _texts(self, items: Items) -> tuple[list[str], list[bool]]:
        """Give what the model reads of each item, and whether that is only its end."""
        whole: Sequence[str] = items.completions
        if self._spec.input == "chat":
            whole = await asyncio.to_thread(self._chats, items)
        window = self._spec.last_chars
        if window is None:
            return list(whole), [False] * len(whole)
        return [text[-window:] for text in whole], [len(text) > window for text in whole]

    def _chats(self, items: Items) -> list[str]:
        prompts: Sequence[Text] = items.prompt_chats or []
        return [self._model.chat(prompt, chat) for prompt, chat in zip(prompts, items.chats, strict=True)]

    async def _read(
        self, texts: Sequence[str], deadline_s: float, result: Scores
    ) -> dict[str, Reading | RewardServiceError]:
        """Give each distinct text's reading: from the cache, or else from the model, which sees it once."""
        distinct = dict.fromkeys(texts)
        known = {text: reading for text in distinct if (reading := self._cache.get(text)) is not None}
        self._observe(CacheUse(len(known), len(distinct) - len(known)))
        missing = [text for text in distinct if text not in known]
        if not missing:
            return {**known}
        encoded = await asyncio.to_thread(self._model.encode, missing)
        ticket = await self._batcher.score([text.tokens for text in encoded], deadline_s=deadline_s)
        result.queue_ms = ((ticket.started_s or ticket.arrived_s) - ticket.arrived_s) * 1000
        result.compute_ms = ticket.compute_s * 1000
        return {**known, **self._keep(missing, encoded, ticket.outcomes)}

    def _keep(
        self, texts: Sequence[str], encoded: Sequence[Encoded], outcomes: Sequence[Outcome | None]
    ) -> dict[str, Reading | RewardServiceError]:
        found: dict[str, Reading | RewardServiceError] = {}
        for text, code, outcome in zip(texts, encoded, outcomes, strict=True):
            if isinstance(outcome, RewardServiceError) or outcome is None:
                found[text] = outcome or BackendFailed("the model gave nothing for this text")
            else:
                found[text] = reading = Reading(outcome, code.truncated)
                self._cache.put(text, reading)
        return found

    def _place(self, reading: Reading | RewardServiceError, index: int, result: Scores, *, cut: bool) -> None:
        score, detail = None, None
        if isinstance(reading, RewardServiceError):
            result.errors[index] = ItemError(code=reading.code, message=str(reading))
        else:
            score, detail = read(self._spec, self._model.labels, reading.logits, self._model.multi_label)
            if cut or reading.truncated:
                result.truncated.append(index)
        result.scores.append(score)
        result.details.append(detail)


def check(name: str, spec: ClassifierSpec | RegressorSpec, model: TextModel) -> None:
    """Refuse a model that cannot give what the configuration asks of it."""
    labels = list(model.labels)
    if isinstance(spec, RegressorSpec) and len(labels) != 1:
        raise ConfigError(
            f"rewards.{name}: a regressor needs a model with one output, {spec.model} has {len(labels)} "
            f"({', '.join(labels)}); use kind: classifier"
        )
    if isinstance(spec, ClassifierSpec):
        unknown = [label for label in spec.labels if label not in labels and label != "*"]
        unmapped = [label for label in labels if label not in spec.labels and "*" not in spec.labels]
        if unknown:
            raise ConfigError(f"rewards.{name}: {spec.model} has no label {unknown[0]!r}; it has {', '.join(labels)}")
        if unmapped:
            raise ConfigError(f"rewards.{name}: give label {unmapped[0]!r} a factor, or `*` for all others")
    if spec.input == "chat" and not model.has_chat_template:
        raise ConfigError(f"rewards.{name}: {spec.model} has no chat template; use input: completion")


def read(
    spec: ClassifierSpec | RegressorSpec, labels: Sequence[str], logits: Logits, multi_label: bool
) -> tuple[float, dict[str, Any]]:
    """Turn one text's logits into its score and the parts it is made of."""
    if isinstance(spec, RegressorSpec):
        return spec.scale * logits[0] + spec.offset, {"output": logits[0]}
    probabilities = sigmoid(logits) if multi_label else softmax(logits)
    winner = max(range(len(probabilities)), key=probabilities.__getitem__)
    label, probability = labels[winner], probabilities[winner]
    return mapped(spec, label, probability), {"label": label, "score": probability}


def mapped(spec: ClassifierSpec, label: str, probability: float) -> float:
    """Give the reward of the winning label and its probability."""
    return spec.labels.get(label, spec.labels.get("*", 0.0)) * probability


def softmax(logits: Logits) -> list[float]:
    """Give probabilities that sum to one. Stable for any finite logits."""
    top = max(logits)
    weights = [math.exp(logit - top) for logit in logits]
    total = sum(weights)
    return [weight / total for weight in weights]


def sigmoid(logits: Logits) -> list[float]:
    """Give each output's own probability. Stable for any finite logits."""
    return [0.5 * (1.0 + math.tanh(0.5 * logit)) for logit in logits]


def revision(spec: ClassifierSpec | RegressorSpec, model: TextModel, engine: EngineInfo) -> str:
    """Hash all that the scores depend on: weights, tokenizer, engine, and the mapping of the configuration."""
    mapping = spec.model_dump(mode="json", exclude={"description", "model", "batch_tokens", "backend", "dtype"})
    made_with = [engine.backend, engine.dtype, engine.deterministic]
    content = json.dumps([model.fingerprint, made_with, mapping], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def value_range(spec: ClassifierSpec | RegressorSpec, labels: Sequence[str]) -> tuple[float, float] | None:
    """Give the lowest and highest score a classifier can give; a regressor has no bounds."""
    if isinstance(spec, RegressorSpec):
        return None
    factors = [mapped(spec, label, 1.0) for label in labels]
    return min(*factors, 0.0), max(*factors, 0.0)


def _all_failed(count: int, code: str, message: str) -> Scores:
    error = ItemError(code=code, message=message)
    return Scores(scores=[None] * count, details=[None] * count, errors=dict.fromkeys(range(count), error))

"""Serve a model: classifier or regressor. Encode once on a thread, share batches, read the score off the logits."""

import asyncio
import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any, Protocol

from reward_service.backends.base import Encoded, Logits
from reward_service.batching.batcher import Batcher, Outcome
from reward_service.config import ClassifierSpec, RegressorSpec
from reward_service.errors import BackendFailed, ConfigError, EmptyInput, RewardServiceError, translating
from reward_service.rewards.base import Items, Scores
from shared.schemas import EngineInfo, ItemError, RewardInfo, Text

INLINE_TOKENIZE_CHARS = 2000
"""Tokenized within half a millisecond."""


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
    """A classifier or a regressor behind a batcher."""

    def __init__(
        self,
        name: str,
        spec: ClassifierSpec | RegressorSpec,
        model: TextModel,
        batcher: Batcher,
        engine: EngineInfo,
        numeric_settings: Sequence[float | str] = (),
    ) -> None:
        check_labels(name, spec, model)
        self._spec, self._model, self._batcher = spec, model, batcher
        self.info = RewardInfo(
            name=name,
            kind=spec.kind,
            description=spec.description,
            revision=f"sha256:{revision(spec, model, engine, numeric_settings)}",
            range=value_range(spec, model.labels),
            max_tokens=model.max_tokens,
            engine=engine,
        )

    @property
    def depth(self) -> int:
        """Texts that wait."""
        return self._batcher.depth

    @property
    def healthy(self) -> bool:
        """Tell whether texts are being scored."""
        return self._batcher.healthy

    async def start(self) -> None:
        """Begin to take work."""
        await self._batcher.start()

    async def stop(self) -> None:
        """Answer what waits and end."""
        await self._batcher.stop()

    def check_deadline(self, deadline_s: float) -> None:
        """Raise `Overloaded` where the line is too long for a caller already."""
        self._batcher.check_deadline(deadline_s)

    async def score(self, items: Items) -> Scores:
        """Score every item; one that the model cannot read or fails on has an error of its own."""
        if self._spec.input == "chat" and items.prompts is None:
            return _all_failed(len(items), "prompt_needed", f"{self.info.name} reads the prompt too: send `prompts`")
        self.check_deadline(items.deadline_s)
        encoded = await self._encoded(items)
        readable = [text for text in encoded if isinstance(text, Encoded)]
        ticket = await self._batcher.submit([text.tokens for text in readable], deadline_s=items.deadline_s)
        result, outcomes = Scores(scores=[], details=[]), iter(ticket.outcomes)
        for index, text in enumerate(encoded):
            outcome = next(outcomes) if isinstance(text, Encoded) else text
            self._place(outcome or BackendFailed("the model gave nothing for this text"), index, result)
            if isinstance(text, Encoded) and text.truncated and result.scores[index] is not None:
                result.truncated.append(index)
        result.queue_ms = ((ticket.started_s or ticket.arrived_s) - ticket.arrived_s) * 1000
        result.compute_ms = ticket.compute_s * 1000
        return result

    async def _encoded(self, items: Items) -> list[Encoded | RewardServiceError]:
        """Encode on a thread, but one short text here: the way to a thread takes longer."""
        if self._spec.input == "completion" and len(items) == 1 and len(items.completions[0]) <= INLINE_TOKENIZE_CHARS:
            return self._encode(items)
        return await asyncio.to_thread(self._encode, items)

    def _encode(self, items: Items) -> list[Encoded | RewardServiceError]:
        """Give what the model reads of each item, or why it can read nothing."""
        texts = [*items.completions] if self._spec.input == "completion" else self._chats(items)
        window = self._spec.last_chars
        whole = [text for text in texts if isinstance(text, str)]
        with translating(BackendFailed, "the tokenizer failed"):
            encoded = iter(self._model.encode([text[-window:] if window else text for text in whole]))
        return [_readable(text, next(encoded), window) if isinstance(text, str) else text for text in texts]

    def _chats(self, items: Items) -> list[str | RewardServiceError]:
        prompts: Sequence[Text] = items.prompt_chats or []
        return [self._chat(prompt, chat) for prompt, chat in zip(prompts, items.chats, strict=True)]

    def _chat(self, prompt: Text, completion: Text) -> str | RewardServiceError:
        try:
            return self._model.chat(prompt, completion)
        except Exception as error:  # a template is code too, and refuses what it does not know
            return EmptyInput(f"the model's chat template refuses this conversation: {error}")

    def _place(self, outcome: Outcome, index: int, result: Scores) -> None:
        score, detail = None, None
        if isinstance(outcome, RewardServiceError):
            result.errors[index] = ItemError(code=outcome.code, message=str(outcome))
        else:
            score, detail = score_from_logits(self._spec, self._model.labels, outcome, self._model.multi_label)
        result.scores.append(score)
        result.details.append(detail)


def _readable(text: str, encoded: Encoded, window: int | None) -> Encoded | RewardServiceError:
    if not encoded.tokens:
        return EmptyInput("the model's tokenizer finds no token in this text")
    return Encoded(encoded.tokens, encoded.truncated or (window is not None and len(text) > window))


def check_labels(name: str, spec: ClassifierSpec | RegressorSpec, model: TextModel) -> None:
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


def score_from_logits(
    spec: ClassifierSpec | RegressorSpec, labels: Sequence[str], logits: Logits, multi_label: bool
) -> tuple[float, dict[str, Any]]:
    """Turn one text's logits into its score and the parts it is made of."""
    if isinstance(spec, RegressorSpec):
        return spec.scale * logits[0] + spec.offset, {"output": logits[0]}
    probabilities = sigmoid(logits) if multi_label else softmax(logits)
    winner = max(range(len(probabilities)), key=probabilities.__getitem__)
    label, probability = labels[winner], probabilities[winner]
    return label_reward(spec, label, probability), {"label": label, "score": probability}


def label_reward(spec: ClassifierSpec, label: str, probability: float) -> float:
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


def revision(
    spec: ClassifierSpec | RegressorSpec,
    model: TextModel,
    engine: EngineInfo,
    numeric_settings: Sequence[float | str] = (),
) -> str:
    """Hash all that the scores depend on: weights, tokenizer, engine, and the mapping of the configuration."""
    mapping = spec.model_dump(mode="json", exclude={"description", "model", "max_batch_tokens", "backend", "dtype"})
    made_with = [engine.backend, engine.dtype, engine.deterministic, *numeric_settings]
    content = json.dumps([model.fingerprint, made_with, mapping], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def value_range(spec: ClassifierSpec | RegressorSpec, labels: Sequence[str]) -> tuple[float, float] | None:
    """Give the lowest and highest score a classifier can give; a regressor has no bounds."""
    if isinstance(spec, RegressorSpec):
        return None
    factors = [label_reward(spec, label, 1.0) for label in labels]
    return min(*factors, 0.0), max(*factors, 0.0)


def _all_failed(count: int, code: str, message: str) -> Scores:
    error = ItemError(code=code, message=message)
    return Scores(scores=[None] * count, details=[None] * count, errors=dict.fromkeys(range(count), error))

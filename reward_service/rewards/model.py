"""Score with a model, a classifier or a regressor: tokenize on a thread, batch with other requests, read the logits."""

import asyncio
import hashlib
import json
from collections.abc import Sequence
from typing import Any, Protocol

from reward_service.backends.base import Encoded, Logits, probabilities
from reward_service.batching.batcher import Batcher
from reward_service.batching.ticket import Outcome
from reward_service.config import ClassifierSpec, RegressorSpec
from reward_service.errors import BackendFailed, ConfigError, EmptyInput, RewardServiceError, translating
from reward_service.rewards.base import Items, Reward, Scores, all_failed
from shared.schemas import EngineInfo, ItemError, RewardInfo, Text

ModelSpec = ClassifierSpec | RegressorSpec
INLINE_TOKENIZE_CHARS = 2000
"""Longest single text that is tokenized on the event loop: it takes under 0.5 ms, less than a thread hop."""


class TextModel(Protocol):
    """A model's tokenizer, labels and limits."""

    labels: Sequence[str]
    max_tokens: int
    multi_label: bool
    regression: bool
    fingerprint: str

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Tokenize, truncating to `max_tokens`."""
        ...

    def chat(self, prompt: Any, completion: Any) -> str:
        """Return prompt and completion in the model's chat template."""
        ...

    @property
    def has_chat_template(self) -> bool:
        """Return whether `chat` can be used."""
        ...


class ModelReward(Reward):
    """A classifier or a regressor behind a batcher."""

    def __init__(
        self,
        name: str,
        spec: ModelSpec,
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
            columns=[] if spec.input == "completion" else ["chat_template_kwargs", "tools"],
            reads_prompts=spec.input != "completion",
            labels=list(model.labels),
            activation=None if model.regression else "sigmoid" if model.multi_label else "softmax",
        )

    @property
    def depth(self) -> int:
        """Return the number of queued texts."""
        return self._batcher.depth

    @property
    def healthy(self) -> bool:
        """Return whether the batcher is working."""
        return self._batcher.healthy

    async def start(self) -> None:
        """Start the batcher."""
        await self._batcher.start()

    async def stop(self) -> None:
        """Stop the batcher. Queued texts end with an error."""
        await self._batcher.stop()

    def check_deadline(self, deadline_s: float) -> None:
        """Raise `Overloaded` if the queue is too long for this deadline."""
        self._batcher.check_deadline(deadline_s)

    async def score(self, items: Items) -> Scores:
        """Score every item. One that the model cannot read, or fails on, gets an error of its own."""
        if self._spec.input == "chat" and items.prompts is None:
            return all_failed(len(items), "prompt_needed", f"{self.info.name} reads the prompt too: send `prompts`")
        self.check_deadline(items.deadline_s)
        inputs = await self._encode(items)
        encoded = [item for item in inputs if isinstance(item, Encoded)]
        ticket = await self._batcher.submit([item.tokens for item in encoded], deadline_s=items.deadline_s)
        result, outcomes = Scores(scores=[], details=[]), iter(ticket.outcomes)
        for index, item in enumerate(inputs):
            outcome = next(outcomes) if isinstance(item, Encoded) else item
            self._append(outcome or BackendFailed("the model returned nothing for this text"), index, result)
            if isinstance(item, Encoded) and item.truncated and result.scores[index] is not None:
                result.truncated.append(index)
        result.tokens = [len(item.tokens) if isinstance(item, Encoded) else 0 for item in inputs]
        result.queue_ms = ((ticket.started_s or ticket.arrived_s) - ticket.arrived_s) * 1000
        result.compute_ms = ticket.compute_s * 1000
        return result

    async def _encode(self, items: Items) -> list[Encoded | RewardServiceError]:
        """Encode on a thread, except for one short text, for which the thread hop would take longer."""
        if self._spec.input == "completion" and len(items) == 1 and len(items.completions[0]) <= INLINE_TOKENIZE_CHARS:
            return self._encode_now(items)
        return await asyncio.to_thread(self._encode_now, items)

    def _encode_now(self, items: Items) -> list[Encoded | RewardServiceError]:
        """Return each item's tokens, or the error that it has none."""
        texts = [*items.completions] if self._spec.input == "completion" else self._chats(items)
        window = self._spec.last_chars
        readable = [text for text in texts if isinstance(text, str)]
        with translating(BackendFailed, "the tokenizer failed"):
            encoded = iter(self._model.encode([text[-window:] if window else text for text in readable]))
        return [_check_tokens(text, next(encoded), window) if isinstance(text, str) else text for text in texts]

    def _chats(self, items: Items) -> list[str | RewardServiceError]:
        prompts: Sequence[Text] = items.prompt_chats or []
        return [self._chat(prompt, chat) for prompt, chat in zip(prompts, items.chats, strict=True)]

    def _chat(self, prompt: Text, completion: Text) -> str | RewardServiceError:
        try:
            return self._model.chat(prompt, completion)
        except Exception as error:  # a template is code too, and may refuse what it does not know
            return EmptyInput(f"the model's chat template refuses this conversation: {error}")

    def _append(self, outcome: Outcome, index: int, result: Scores) -> None:
        score, detail, logits = None, None, None
        if isinstance(outcome, RewardServiceError):
            result.errors[index] = ItemError(code=outcome.code, message=str(outcome))
        else:
            logits = outcome
            score, detail = score_from_logits(self._spec, self._model.labels, outcome, self._model.multi_label)
        result.scores.append(score)
        result.details.append(detail)
        result.logits.append(logits)


def _check_tokens(text: str, encoded: Encoded, window: int | None) -> Encoded | RewardServiceError:
    if not encoded.tokens:
        return EmptyInput("the model's tokenizer finds no token in this text")
    return Encoded(encoded.tokens, encoded.truncated or (window is not None and len(text) > window))


def check_labels(name: str, spec: ModelSpec, model: TextModel) -> None:
    """Raise `ConfigError` if the model lacks what the configuration reads: its outputs, labels or chat template."""
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
            raise ConfigError(f"rewards.{name}: add a factor for label {unmapped[0]!r}, or `*` for all others")
    if spec.input == "chat" and not model.has_chat_template:
        raise ConfigError(f"rewards.{name}: {spec.model} has no chat template; use input: completion")


def score_from_logits(
    spec: ModelSpec, labels: Sequence[str], logits: Logits, multi_label: bool
) -> tuple[float, dict[str, Any]]:
    """Return one text's score, and the values that it is made of."""
    if isinstance(spec, RegressorSpec):
        return spec.scale * logits[0] + spec.offset, {"output": logits[0]}
    label_probabilities = probabilities(logits, multi_label=multi_label)
    winner = max(range(len(label_probabilities)), key=label_probabilities.__getitem__)
    label, probability = labels[winner], label_probabilities[winner]
    return label_reward(spec, label, probability), {"label": label, "score": probability}


def label_reward(spec: ClassifierSpec, label: str, probability: float) -> float:
    """Return the reward of the winning label: its factor times its probability."""
    return spec.labels.get(label, spec.labels.get("*", 0.0)) * probability


def revision(
    spec: ModelSpec, model: TextModel, engine: EngineInfo, numeric_settings: Sequence[float | str] = ()
) -> str:
    """Hash all that the scores depend on: weights, tokenizer, engine, and the mapping from logits to rewards."""
    mapping = spec.model_dump(
        mode="json", exclude={"description", "aliases", "model", "max_batch_tokens", "backend", "dtype"}
    )
    computed_by = [engine.backend, engine.dtype, engine.deterministic, *numeric_settings]
    content = json.dumps([model.fingerprint, computed_by, mapping], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def value_range(spec: ModelSpec, labels: Sequence[str]) -> tuple[float, float] | None:
    """Return a classifier's lowest and highest possible score, None for a regressor, which has no bounds."""
    if isinstance(spec, RegressorSpec):
        return None
    factors = [label_reward(spec, label, 1.0) for label in labels]
    return min(*factors, 0.0), max(*factors, 0.0)

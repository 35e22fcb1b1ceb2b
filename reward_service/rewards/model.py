"""Score with a model, a classifier or a regressor: tokenize on a thread, batch with other requests, read the logits."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from reward_service.backends.base import Encoded, ModelInput
from reward_service.backends.chat_template import ChatTemplate
from reward_service.backends.text_encoder import TextEncoder
from reward_service.batching.batcher import Batcher
from reward_service.batching.ticket import Outcome
from reward_service.errors import BackendFailed, EmptyInput, RewardServiceError, translating
from reward_service.rewards.base import Items, Scores, all_failed
from reward_service.rewards.batched import BatchedReward, record_times, revision
from reward_service.rewards.reading import CHAT_COLUMNS, check_template, last_chars, read_items, reads_prompt
from reward_service.rewards.values import ModelSpec, check_labels, score_from_logits, value_range
from shared.schemas import EngineInfo, ItemError, RewardInfo

INLINE_TOKENIZE_CHARS = 2000
"""Longest single text that is tokenized on the event loop: it takes under 0.5 ms, less than a thread hop."""


class TextModel(Protocol):
    """A model's tokenizer, chat template, labels and limits."""

    labels: Sequence[str]
    max_tokens: int
    multi_label: bool
    regression: bool
    fingerprint: str
    end_token: str
    template: ChatTemplate | None
    encoder: TextEncoder


class ModelReward(BatchedReward):
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
        check_template(name, spec, model.template)
        super().__init__(spec, batcher)
        self._spec, self._model = spec, model
        self.info = RewardInfo(
            name=name,
            kind=spec.kind,
            description=spec.description,
            revision=f"sha256:{revision(spec, model, engine, numeric_settings)}",
            range=value_range(spec, model.labels, model.multi_label),
            max_tokens=model.max_tokens,
            columns=[*CHAT_COLUMNS] if spec.input == "chat" else [],
            reads_prompts=reads_prompt(spec),
            engine=engine,
            labels=list(model.labels),
            activation=None if model.regression else "sigmoid" if model.multi_label else "softmax",
        )

    async def score(self, items: Items) -> Scores:
        """Score every item. One that the model cannot read, or fails on, gets an error of its own."""
        if self.info.reads_prompts and items.prompts is None:
            return all_failed(len(items), "prompt_needed", f"{self.info.name} reads the prompt too: send `prompts`")
        self.check_deadline(items.deadline_s)
        inputs = await self._encode(items)
        encoded = [item for item in inputs if isinstance(item, Encoded)]
        ticket = await self._batcher.submit([item.tokens for item in encoded], deadline_s=items.deadline_s)
        result, outcomes = Scores(scores=[], details=[]), iter(ticket.outcomes)
        for index, item in enumerate(inputs):
            outcome = next(outcomes) if isinstance(item, Encoded) else item
            self._append(outcome or BackendFailed("the model returned nothing for this text"), index, result)
            if isinstance(item, Encoded) and result.scores[index] is not None:
                result.truncated += [index] if item.truncated else []
                result.overlong += [index] if item.overlong else []
        result.tokens = [len(item.tokens) if isinstance(item, Encoded) else 0 for item in inputs]
        record_times(ticket, result)
        return result

    async def _encode(self, items: Items) -> list[Encoded | RewardServiceError]:
        """Encode on a thread, except for one short text, for which the thread hop would take longer."""
        if not self.info.reads_prompts and len(items) == 1 and len(items.completions[0]) <= INLINE_TOKENIZE_CHARS:
            return self._encode_now(items)
        return await asyncio.to_thread(self._encode_now, items)

    def _encode_now(self, items: Items) -> list[Encoded | RewardServiceError]:
        """Return each item's tokens, or the error that it has none."""
        model, window = self._model, self._spec.last_chars
        readings = read_items(self._spec, items, model.template, model.end_token, model.encoder.fits)
        inputs = [last_chars(item, window) for item in readings if isinstance(item, ModelInput)]
        with translating(BackendFailed, "the tokenizer failed"):
            encoded = iter(model.encoder.encode(inputs))
        return [
            _check_tokens(item, next(encoded), window) if isinstance(item, ModelInput) else item for item in readings
        ]

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


def _check_tokens(
    item: ModelInput, encoded: Encoded | RewardServiceError, window: int | None
) -> Encoded | RewardServiceError:
    if isinstance(encoded, RewardServiceError):
        return encoded
    if not encoded.tokens:
        return EmptyInput("the model's tokenizer finds no token in this text")
    text = item.text if item.second is None else item.second
    cut = item.prompt_cut or (window is not None and len(text) > window)
    return replace(encoded, truncated=True) if cut else encoded

"""Generate completions for rendered chats, greedy or sampled."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from shared.text import Chat
from trainer.errors import TrainerError
from trainer.policy import without_adapter


@dataclass(frozen=True)
class Decoding:
    """How completions are decoded; temperature 0 is greedy."""

    name: str
    temperature: float
    max_new_tokens: int
    top_k: int = 0
    """Sample from this number of tokens; 0 for all."""
    top_p: float = 1.0
    min_p: float | None = None
    repetition_penalty: float = 1.0

    @property
    def warpers(self) -> LogitsProcessorList:
        """What leaves out tokens before one is sampled, in the order of transformers."""
        warpers = [TopKLogitsWarper(self.top_k)] if self.top_k else []
        warpers += [TopPLogitsWarper(self.top_p)] if self.top_p < 1 else []
        warpers += [MinPLogitsWarper(self.min_p)] if self.min_p is not None else []
        return LogitsProcessorList(warpers)


def decodings(names: Sequence[str], temperature: float, max_new_tokens: int) -> list[Decoding]:
    """Return the decodings of these names: `greedy`, or `sampled` at the temperature."""
    return [Decoding(name, 0.0 if name == "greedy" else temperature, max_new_tokens) for name in names]


def length_sorted_batches(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Yield batches of indices, shortest first, so that little is padding."""
    order = sorted(range(len(lengths)), key=lambda index: (lengths[index], index))
    for start in range(0, len(order), size):
        yield order[start : start + size]


class InverseCdfSampler(LogitsProcessor):  # type: ignore[misc]
    """Samples each row's token from one uniform number, so that greedy search can only choose that token.

    `torch.multinomial` draws a number for every token of the vocabulary, which takes a third of generation on a CPU.
    """

    def __init__(self, temperature: float, warpers: LogitsProcessorList | None = None) -> None:
        self.temperature, self.warpers = temperature, warpers or LogitsProcessorList()

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return scores (batch, vocabulary): 0 for the sampled token, -inf for all others."""
        warped = self.warpers(input_ids, scores / self.temperature)
        cumulative = torch.softmax(warped, dim=-1).cumsum(dim=-1)
        thresholds = torch.rand(len(scores), 1, device=scores.device) * cumulative[:, -1:]
        thresholds.clamp_(min=torch.finfo(thresholds.dtype).tiny)  # 0 would sample a first token of probability 0
        tokens = torch.searchsorted(cumulative, thresholds).clamp_(max=scores.shape[-1] - 1)  # (batch, 1)
        return torch.full_like(scores, -math.inf).scatter_(1, tokens, 0.0)


def render(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Chat], template_kwargs: Mapping[str, Any] | None
) -> list[str]:
    """Return the texts that the policy completes. Raises `TrainerError` if its chat template refuses a prompt."""
    try:
        texts: list[str] = tokenizer.apply_chat_template(
            [*prompts], add_generation_prompt=True, tokenize=False, **(template_kwargs or {})
        )
    except TemplateError as error:
        raise TrainerError(
            f"the policy's chat template refuses a prompt: {error}. Some take no system message: leave it out of the "
            f"prompts, and pass --system_prompt ''"
        ) from error
    return texts


def check_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: Iterable[Chat], template_kwargs: Mapping[str, Any] | None
) -> None:
    """Raise `TrainerError` if the chat template refuses a sequence of roles, such as one with a system message."""
    by_roles = {tuple(message["role"] for message in prompt): prompt for prompt in prompts}
    render(tokenizer, [*by_roles.values()], template_kwargs)


@torch.inference_mode()
def generate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], decoding: Decoding
) -> list[tuple[str, int, bool]]:
    """Complete rendered chats; return (completion, number of tokens, whether it was cut off) in order."""
    inputs = tokenizer(
        list(texts), add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt"
    ).to(model.device)
    end_ids = end_token_ids(model, tokenizer)
    config = GenerationConfig(
        max_new_tokens=decoding.max_new_tokens,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=end_ids,
        repetition_penalty=decoding.repetition_penalty,
    )
    sampler = [InverseCdfSampler(decoding.temperature, decoding.warpers)] if decoding.temperature else []
    with generation_config(model, config):
        ids = model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            logits_processor=LogitsProcessorList(sampler),
        )
    completions = []
    for row in ids[:, inputs["input_ids"].shape[1] :].tolist():  # (batch, new tokens)
        length = next((index for index, token in enumerate(row) if token in end_ids), None)
        completions.append(
            (tokenizer.decode(row[:length], skip_special_tokens=True), len(row[:length]), length is None)
        )
    return completions


def end_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens that end a completion, as in TRL's trainers: the tokenizer's end token, and the model's.

    A model may end a turn with another token than a text.
    """
    ids = model.generation_config.eos_token_id
    ids = ids if isinstance(ids, list) else [ids]
    return [id for id in dict.fromkeys([tokenizer.eos_token_id, *ids]) if id is not None]


@contextmanager
def generation_config(model: PreTrainedModel, config: GenerationConfig) -> Iterator[None]:
    """Replace a model's generation config inside the block.

    Its own may hold defaults for users, such as a repetition penalty, which `generate` would apply: the completions
    would not be those of the policy that is trained.
    """
    base = without_adapter(model)
    own, base.generation_config = base.generation_config, config
    try:
        yield
    finally:
        base.generation_config = own


@contextmanager
def eval_mode(model: PreTrainedModel) -> Iterator[None]:
    """Put a model into evaluation mode inside the block."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)

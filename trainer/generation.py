"""Generate completions for rendered chats, greedy or sampled."""

import inspect
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers import DynamicCache, LogitsProcessor, LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicLayer

MIN_PREFIX_TOKENS = 8
"""A shorter shared prefix is not worth a forward pass of its own."""


@dataclass(frozen=True)
class Decoding:
    """How completions are decoded; temperature 0 is greedy."""

    name: str
    temperature: float
    max_new_tokens: int


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

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return scores (batch, vocabulary): 0 for the sampled token, -inf for all others."""
        cumulative = torch.softmax(scores / self.temperature, dim=-1).cumsum(dim=-1)
        thresholds = torch.rand(len(scores), 1, device=scores.device) * cumulative[:, -1:]
        tokens = torch.searchsorted(cumulative, thresholds).clamp_(max=scores.shape[-1] - 1)  # (batch, 1)
        return torch.full_like(scores, -math.inf).scatter_(1, tokens, 0.0)


@torch.inference_mode()
def generate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], decoding: Decoding
) -> list[tuple[str, int, bool]]:
    """Complete rendered chats; return (completion, number of tokens, whether it was cut off) in order."""
    rows = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    prefix, cache = shared_prefix(model, rows)
    suffixes = tokenizer.pad(
        {"input_ids": [row[len(prefix) :] for row in rows]}, padding_side="left", return_tensors="pt"
    )
    prefixes = torch.tensor([prefix] * len(rows), dtype=torch.long)  # (batch, prefix tokens)
    input_ids = torch.cat([prefixes, suffixes["input_ids"]], dim=1).to(model.device)
    attention_mask = torch.cat([torch.ones_like(prefixes), suffixes["attention_mask"]], dim=1).to(model.device)
    sampler = [InverseCdfSampler(decoding.temperature)] if decoding.temperature else []
    ids = model.generate(
        input_ids=input_ids,
        attention_mask=attention_mask,
        past_key_values=cache,
        max_new_tokens=decoding.max_new_tokens,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        do_sample=False,
        logits_processor=LogitsProcessorList(sampler),
    )
    completions = []
    for row in ids[:, input_ids.shape[1] :].tolist():  # (batch, new tokens)
        ended = tokenizer.eos_token_id in row
        tokens = row[: row.index(tokenizer.eos_token_id)] if ended else row
        completions.append((tokenizer.decode(tokens, skip_special_tokens=True), len(tokens), not ended))
    return completions


def shared_prefix(model: PreTrainedModel, rows: Sequence[list[int]]) -> tuple[list[int], DynamicCache | None]:
    """Return the tokens that all prompts begin with, and their keys and values, repeated for each prompt.

    The system prompt and the examples are the longest part of a prompt; they are computed once for a batch. Returns no
    tokens and None where that saves nothing or the architecture does not allow it.
    """
    length = shared_length(rows)
    if len(rows) == 1 or length < MIN_PREFIX_TOKENS or not allows_prefix(model):
        return [], None
    prefix, cache = rows[0][:length], DynamicCache(config=model.config)
    model(input_ids=torch.tensor([prefix], device=model.device), past_key_values=cache, use_cache=True)
    cache.batch_repeat_interleave(len(rows))
    return prefix, cache


def allows_prefix(model: PreTrainedModel) -> bool:
    """Return whether padding may stand between the shared prefix and the rest of a prompt.

    It may where positions are an input (not those of ALiBi, which are distances in the padded row) and each layer's
    cache is the keys and values of all positions (no sliding window, no recurrent state).
    """
    base = getattr(model, "get_base_model", lambda: model)()  # of a model with an adapter
    if "position_ids" not in inspect.signature(base.forward).parameters or getattr(model.config, "alibi", False):
        return False
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)


def shared_length(rows: Sequence[list[int]]) -> int:
    """Return the number of tokens that all rows begin with; at least one token of each row is left over."""
    first, last = min(rows), max(rows)
    pairs = zip(first[:-1], last[:-1], strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(row) for row in rows) - 1)


@contextmanager
def eval_mode(model: PreTrainedModel) -> Iterator[None]:
    """Put a model into evaluation mode inside the block."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)

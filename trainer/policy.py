"""Load a policy and its tokenizer, and lay its weights out for generating on a CPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from shared.model_store import ModelError, resolve
from trainer.errors import TrainerError


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load a tokenizer that pads on the left; the end token pads where there is no other."""
    tokenizer = AutoTokenizer.from_pretrained(folder_of(name), padding_side="left", trust_remote_code=False)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if not tokenizer.chat_template:
        raise TrainerError(f"{name} has no chat template; choose a chat model, such as embedded:smollm2")
    return tokenizer


def load_policy(name: str, *, frozen_layers: int = 0, **kwargs: Any) -> PreTrainedModel:
    """Load a causal language model; of its lowest layers, `frozen_layers` and the embeddings keep their weights."""
    model = AutoModelForCausalLM.from_pretrained(folder_of(name), trust_remote_code=False, **kwargs)
    freeze(model, frozen_layers)
    return model


def folder_of(name: str) -> str:
    """Turn a model's name into a folder. Raises `TrainerError`."""
    try:
        return str(resolve(name))
    except ModelError as error:
        raise TrainerError(str(error)) from error


def freeze(model: PreTrainedModel, layers: int) -> None:
    """Keep the embeddings and the lowest layers as they are: less to compute backwards, less to forget."""
    if layers <= 0:
        return
    blocks = model.get_decoder().layers
    if layers >= len(blocks):
        raise TrainerError(f"the policy has {len(blocks)} layers: freeze fewer than that, not {layers}")
    model.get_input_embeddings().requires_grad_(False)
    for block in blocks[:layers]:
        block.requires_grad_(False)


def use_column_major_weights(model: torch.nn.Module) -> None:
    """Store each linear layer's weight by columns, on a CPU. Values and shapes stay as they are.

    Generating multiplies a few rows at a time; for those, MKL's kernel for a matrix that needs no transposing is
    two to four times as fast as the one for torch's row-major weights.
    """
    for weight in _linear_weights(model):
        weight.data = weight.data.t().contiguous().t()


@contextmanager
def row_major_weights(model: torch.nn.Module) -> Iterator[None]:
    """Store the weights by rows for a while, as a file wants them."""
    columns = [weight for weight in _linear_weights(model) if not weight.is_contiguous()]
    for weight in columns:
        weight.data = weight.data.contiguous()
    try:
        yield
    finally:
        if columns:
            use_column_major_weights(model)


def _linear_weights(model: torch.nn.Module) -> list[torch.Tensor]:
    linear = (module for module in model.modules() if isinstance(module, torch.nn.Linear))
    return [module.weight for module in linear if module.weight.device.type == "cpu"]

"""Load a policy and its tokenizer, and choose the memory layout of its weights for generation on a CPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from shared.model_store import ModelError, resolve
from shared.model_store.adapters import is_adapter
from trainer.errors import TrainerError
from trainer.quantization import is_quantized, keep_gradients
from trainer.shared_prefix import share_prefix


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load a chat tokenizer that pads on the left, with the end token if it has no padding token."""
    folder = model_folder(name)
    with _translating(f"{name} has no tokenizer that can be loaded"):
        tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left", trust_remote_code=False)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if not tokenizer.chat_template:
        raise TrainerError(f"{name} has no chat template; choose a chat model, such as embedded:smollm2")
    return tokenizer


def load_policy(name: str, *, frozen_layers: int = 0, **kwargs: Any) -> PreTrainedModel:
    """Load a causal language model, or merge a LoRA adapter into its base model, beside which a quantized one stays.

    `kwargs` are those of `from_pretrained`. Freeze the embeddings and the lowest layers if `frozen_layers` is above 0.
    """
    folder = model_folder(name)
    with _translating(f"{name} cannot be a policy"):
        if is_adapter(Path(folder)):
            model = _load_adapter(folder, **kwargs)
        else:
            model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False, **kwargs)
    freeze(model, frozen_layers)
    if (head := model.get_output_embeddings()) is not None:
        head.register_forward_pre_hook(copy_slice)
    keep_gradients(model)
    share_prefix(without_adapter(model))
    return model


@contextmanager
def _translating(message: str) -> Iterator[None]:
    """Translate what transformers raises for a model that it cannot load, or whose package is missing."""
    try:
        yield
    except (OSError, ValueError, ImportError) as error:
        raise TrainerError(f"{message}: {' '.join(str(error).split())[:300]}") from error


def _load_adapter(folder: str, **kwargs: Any) -> PreTrainedModel:
    from peft import PeftConfig, PeftModel, load_peft_weights

    base = model_folder(base_of(PeftConfig.from_pretrained(folder)))
    model = AutoModelForCausalLM.from_pretrained(base, trust_remote_code=False, **kwargs)
    adapted = PeftModel.from_pretrained(model, folder)
    if not is_quantized(model):
        return adapted.merge_and_unload()
    # Not merged, as the sum would be rounded to few bits again; and in the precision in which it was trained.
    saved = load_peft_weights(folder, device="cpu")
    for name, weight in adapted.named_parameters():
        if (in_file := saved.get(name.replace(f".{adapted.active_adapter}", ""))) is not None:
            weight.data = weight.data.to(in_file.dtype)
    return adapted


def base_of(adapter: Any) -> str:
    """Return the name of the base model in an adapter's configuration, with its revision."""
    name = str(adapter.base_model_name_or_path)
    return f"{name}@{adapter.revision}" if adapter.revision and not Path(name).is_dir() else name


def check_trainable(name: str) -> None:
    """Refuse to train from a LoRA adapter: TRL's reference model is loaded from a folder with a whole model."""
    if is_adapter(Path(model_folder(name))):
        raise TrainerError(
            f"{name} holds a LoRA adapter, which can be evaluated, not trained further: merge it into its base model "
            f"(a run saves the merged model with --merge_lora true)"
        )


def model_folder(name: str) -> str:
    """Return the local folder of a model given by folder, hub id or `embedded:<name>`. Raises `TrainerError`."""
    try:
        return str(resolve(name))
    except ModelError as error:
        raise TrainerError(str(error)) from error


def freeze(model: PreTrainedModel, layers: int) -> None:
    """Freeze the embeddings and the lowest `layers` layers, which makes the backward pass shorter."""
    if layers <= 0:
        return
    blocks = layers_of(model)
    if layers >= len(blocks):
        raise TrainerError(f"--frozen_layers {layers}: the policy has {len(blocks)} layers; freeze fewer than that")
    below = set(model.modules()) - set(blocks.modules())
    for part in (*(part for part in below if isinstance(part, nn.Embedding)), *blocks[:layers]):
        part.requires_grad_(False)


def layers_of(model: PreTrainedModel) -> nn.ModuleList:
    """Return the layers of a model, the lowest first. Raises `TrainerError` for an architecture without a list."""
    count = model.config.get_text_config().num_hidden_layers
    lists = [part for part in model.modules() if isinstance(part, nn.ModuleList) and len(part) == count]
    if not lists:
        raise TrainerError(f"--frozen_layers: no list of layers was found in a {type(model).__name__}; pass 0")
    return lists[0]


def without_adapter(model: PreTrainedModel) -> PreTrainedModel:
    """Return the model that a LoRA adapter was added to, or the model itself if it has none."""
    base: PreTrainedModel = getattr(model, "get_base_model", lambda: model)()
    return base


def use_column_major_weights(model: nn.Module) -> None:
    """Store the weights of linear layers on a CPU in column-major order. Values and shapes do not change.

    Generation multiplies a few rows at a time; for those, MKL's kernel for a matrix that needs no transposing is
    two to four times as fast as the one for torch's row-major weights.
    """
    for weight in _linear_weights(model):
        weight.data = weight.data.t().contiguous().t()


def copy_slice(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Copy the hidden states that the head multiplies, if they are a slice of a batch.

    Trainers compute the logits of the completions alone. On a CPU the copy halves that time: one product of matrices
    instead of one for each row of the batch.
    """
    return tuple(value.contiguous() if isinstance(value, torch.Tensor) else value for value in inputs)


@contextmanager
def row_major_weights(model: nn.Module) -> Iterator[None]:
    """Store the weights in row-major order inside the block, which safetensors files need."""
    column_major = [weight for weight in _linear_weights(model) if not weight.is_contiguous()]
    for weight in column_major:
        weight.data = weight.data.contiguous()
    try:
        yield
    finally:
        if column_major:
            use_column_major_weights(model)


def _linear_weights(model: nn.Module) -> list[torch.Tensor]:
    weights = (module.weight for module in model.modules() if isinstance(module, nn.Linear))
    return [weight for weight in weights if type(weight) is nn.Parameter and weight.device.type == "cpu"]

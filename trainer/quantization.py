"""Policies in 8 or 4 bits, by TRL's settings for bitsandbytes. A LoRA adapter beside them is trained (QLoRA).

Source: Dettmers et al., LLM.int8(), 2022, and QLoRA, 2023.
"""

import dataclasses
from typing import Any

from transformers import PreTrainedModel
from transformers.utils import is_bitsandbytes_available
from trl import ModelConfig, get_quantization_config

from trainer.errors import TrainerError

ARGS_4BIT = {"bnb_4bit_quant_type", "use_bnb_nested_quant", "bnb_4bit_quant_storage"}
"""The arguments of TRL's ModelConfig that describe the 4 bits."""
QUANTIZATION_ARGS = {"load_in_8bit", "load_in_4bit"} | ARGS_4BIT
PACKS_WEIGHTS = "support_avx512bf16_for_cpu"
"""The attribute of bitsandbytes' layer of 4 bits that lets it pack its weights."""


def quantization_flag(model: ModelConfig) -> str | None:
    """Return the flag that quantizes the policy, or None."""
    return next((f"--{name} true" for name in ("load_in_4bit", "load_in_8bit") if getattr(model, name)), None)


def check_quantization(model: ModelConfig, *, training: bool) -> None:
    """Refuse a quantized policy without the package that computes it, or without an adapter that can be trained."""
    flag = quantization_flag(model)
    if flag is None:
        return
    if training and not model.use_peft:
        raise TrainerError(f"{flag} makes weights that cannot be trained: add --use_peft true, which trains an adapter")
    if not is_bitsandbytes_available():
        raise TrainerError(f"{flag} needs the package bitsandbytes: pip install bitsandbytes")


def without_quantization(model: ModelConfig) -> ModelConfig:
    """Return the settings that load the policy in whole precision."""
    return dataclasses.replace(model, load_in_8bit=False, load_in_4bit=False)


def loading_args(model: ModelConfig) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` that load the policy as these settings say."""
    args: dict[str, Any] = {"dtype": model.dtype, "attn_implementation": model.attn_implementation}
    if quantization_flag(model) is None:
        return args
    computed = dataclasses.replace(model, dtype="bfloat16") if model.dtype in ("auto", None) else model
    return {**args, "quantization_config": get_quantization_config(computed)}


def is_quantized(policy: PreTrainedModel) -> bool:
    """Return whether a model's weights are quantized: by these settings, or already in its folder."""
    return bool(getattr(policy, "is_quantized", False))


def keep_gradients(policy: PreTrainedModel) -> None:
    """Turn off the packed 4-bit weights of bitsandbytes on CPUs with AVX512-BF16.

    The first evaluation packs them, and a product with packed weights passes no gradient back: the layers below would
    learn nothing, without an error (bitsandbytes 0.50).
    """
    for module in policy.modules():
        if hasattr(module, PACKS_WEIGHTS):
            setattr(module, PACKS_WEIGHTS, False)


def check_trainable_weights(policy: PreTrainedModel, model: ModelConfig, interpolation: float) -> None:
    """Refuse to train quantized weights themselves, and to interpolate with those of a quantized folder."""
    if not is_quantized(policy):
        return
    name = model.model_name_or_path
    if not model.use_peft:
        raise TrainerError(f"the weights of {name} are quantized, and cannot be trained: add --use_peft true")
    if interpolation < 1 and quantization_flag(model) is None:
        raise TrainerError(f"--interpolation needs whole weights, and those of {name} are quantized: pass 1")

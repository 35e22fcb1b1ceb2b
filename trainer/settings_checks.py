"""Refuse settings of TRL's that a run of ours cannot have, before anything slow is done."""

import os
from collections.abc import Mapping
from dataclasses import MISSING, fields
from math import ceil, inf, lcm
from pathlib import Path
from typing import Any

from trl import ModelConfig
from trl.import_utils import is_vllm_available

from shared.model_store.store import hub_id, looks_like_a_path
from trainer.algorithms import OFFLINE, ONLINE, DPOConfig, SFTConfig, TrainingConfig, template_kwargs
from trainer.errors import TrainerError
from trainer.quantization import ARGS_4BIT, QUANTIZATION_ARGS

SUPPORTED_MODEL_ARGS = {"model_name_or_path", "model_revision", "dtype", "attn_implementation"}
"""The arguments of TRL's ModelConfig that are passed on when a model is loaded."""
LORA_ARGS = {item.name for item in fields(ModelConfig) if item.name.startswith("lora_")} - {"lora_task_type"}
LORA_ARGS |= {"use_rslora", "use_dora"}
"""Those that describe a LoRA adapter."""

READERS = {"completions": OFFLINE, "margin": ("dpo",), "min_score": ("sft",)}
READERS |= {"on_hack": ONLINE, "diversity_weight": ONLINE}
"""Our settings that only some algorithms read. Without generated completions there is no reward hacking to watch."""

OFFLINE_UNSUPPORTED = (
    *("trust_remote_code", "chat_template_path", "eos_token", "pad_token", "model_init_kwargs", "dataset_kwargs"),
    *("packing", "eval_packing", "padding_free"),
)
"""Settings of TRL's DPO and SFT that run foreign code, change the tokenizer, or need FlashAttention."""


def check_training(args: TrainingConfig) -> None:
    """Refuse settings of TRL's algorithm that this trainer does not support."""
    if args.eval_strategy != "no" or args.eval_on_start:
        raise TrainerError(
            "--eval_strategy and --eval_on_start are not supported, because held-out prompts are evaluated before and "
            "after training: leave them out"
        )
    if getattr(args, "use_vllm", False) and not is_vllm_available():
        raise TrainerError("--use_vllm true needs the package vllm: pip install 'trl[vllm]'")
    if isinstance(args, DPOConfig | SFTConfig):
        check_offline(args)
    template_kwargs(args)
    check_output_dir(Path(args.output_dir))
    check_saving(args)
    check_logging(args)


def check_offline(args: DPOConfig | SFTConfig) -> None:
    """Refuse settings of TRL's DPO and SFT that would change the policy's tokenizer, or its tokens behind our back."""
    for name in OFFLINE_UNSUPPORTED:
        if getattr(args, name, None):
            raise TrainerError(f"--{name} is not supported here: leave it out")


def check_model(model: ModelConfig) -> None:
    """Refuse settings of TRL's ModelConfig that this trainer would ignore; name the policy with its revision."""
    if model.model_name_or_path is None:
        raise TrainerError("no policy is given: set --model_name_or_path to a folder, a hub id or embedded:smollm2")
    for item in fields(ModelConfig):
        if item.name in SUPPORTED_MODEL_ARGS or item.default is MISSING or getattr(model, item.name) == item.default:
            continue
        if item.name not in LORA_ARGS | QUANTIZATION_ARGS | {"use_peft"}:
            raise TrainerError(
                f"--{item.name} is not supported here; for that, run TRL's own `trl rloo` with "
                f"--reward_funcs remote_rewards.<reward>"
            )
    add_revision(model)


def add_revision(model: ModelConfig) -> None:
    """Write `--model_revision` into the name of a model of the hub, `org/model@revision`. Raises `TrainerError`."""
    if model.model_revision in (None, "main"):
        return
    if looks_like_a_path(model.model_name_or_path) or hub_id(model.model_name_or_path)[1] is not None:
        raise TrainerError(
            f"--model_revision {model.model_revision} is for a hub id without a revision, and "
            f"{model.model_name_or_path} is none: leave it out"
        )
    model.model_name_or_path += f"@{model.model_revision}"


def without_effect(changed: Mapping[str, Any], algorithm: str) -> dict[str, str]:
    """Return the settings that a run ignores, and why. `changed` are its settings that are not at their defaults."""
    unused = dict.fromkeys(LORA_ARGS, "without --use_peft true")
    if changed.get("use_peft"):
        unused = {"frozen_layers": "with --use_peft true"}  # an adapter freezes the whole model below it
    if not changed.get("load_in_4bit"):
        unused |= dict.fromkeys(ARGS_4BIT, "without --load_in_4bit true")
    unused |= {name: f"with --algorithm {algorithm}" for name, readers in READERS.items() if algorithm not in readers}
    return {name: reason for name, reason in unused.items() if name in changed}


def check_output_dir(path: Path) -> None:
    """Raise `TrainerError` if the folder cannot be created or written to."""
    nearest = next((folder for folder in (path, *path.parents) if os.path.exists(folder)), path)
    if not (os.path.isdir(nearest) and os.access(nearest, os.W_OK | os.X_OK)):
        raise TrainerError(f"--output_dir {path}: {nearest} is not a writable folder; choose another")


def check_saving(args: TrainingConfig) -> None:
    """Refuse checkpoints that cannot be resumed with the same rewards.

    A checkpoint does not hold the unused part of a generation batch. `save_only_model` is refused even if nothing is
    to be saved: a run that its rewards stop saves a checkpoint, too.
    """
    if args.save_only_model:
        raise TrainerError("--save_only_model true makes checkpoints that cannot be resumed: leave it out")
    if enum_value(args.save_strategy) != "steps":
        return
    batch_steps = generation_batch_steps(args)
    max_steps = args.max_steps if args.max_steps >= 0 else inf  # with epochs, it is known only with the prompts
    save_steps = args.save_steps if args.save_steps >= 1 or max_steps == inf else ceil(args.save_steps * max_steps)
    if batch_steps > 1 and save_steps < max_steps and save_steps % batch_steps:
        raise TrainerError(
            f"--save_steps {args.save_steps:g} saves in the middle of a generation batch, which lasts {batch_steps} "
            f"steps, and such a checkpoint cannot be resumed with the same rewards: choose a multiple of {batch_steps}"
        )


def generation_batch_steps(args: TrainingConfig) -> int:
    """Return the number of steps after which a new generation batch begins together with a step; 1 without any."""
    if isinstance(args, DPOConfig | SFTConfig):
        return 1
    batches = lcm(args.steps_per_generation * args.num_iterations, args.gradient_accumulation_steps)
    return batches // int(args.gradient_accumulation_steps)


def check_logging(args: TrainingConfig) -> None:
    """Refuse to log only some steps: the report needs the metrics and completions of each."""
    if args.logging_steps != 1 or enum_value(args.logging_strategy) != "steps":
        raise TrainerError(
            "every step is logged, because the report needs it: leave out --logging_steps and --logging_strategy, or "
            "set them to 1 and steps"
        )


def enum_value(choice: Any) -> str:
    """Return the value of one of TRL's choices, which are enumerations or strings."""
    return str(getattr(choice, "value", choice))

"""Policies that FSDP or DeepSpeed shards over the processes of a run. Each process evaluates a whole copy."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

from trainer.algorithms import TrainingConfig
from trainer.errors import TrainerError
from trainer.processes import launched_processes

BY_LAUNCHER = {"FSDP": "ACCELERATE_USE_FSDP", "DeepSpeed": "ACCELERATE_USE_DEEPSPEED"}
"""The environment variables with which accelerate's launcher turns each on."""
EFFICIENT_LOADING = "FSDP_CPU_RAM_EFFICIENT_LOADING"
"""With it, transformers loads the weights of a model in rank 0 alone."""


def sharded_by(args: TrainingConfig, environ: Mapping[str, str]) -> str | None:
    """Return what shards the policy, `FSDP` or `DeepSpeed`, or None."""
    for name, setting in (("FSDP", args.fsdp), ("DeepSpeed", args.deepspeed)):
        if setting or is_launched(name, environ):
            return name
    return None


def is_launched(name: str, environ: Mapping[str, str]) -> bool:
    """Return whether accelerate's launcher has turned FSDP or DeepSpeed on."""
    return environ.get(BY_LAUNCHER[name], "").lower() == "true"


def check_deepspeed_installed(argv: Iterable[str], recipe: Mapping[str, Any], environ: Mapping[str, str]) -> None:
    """Raise `TrainerError` if DeepSpeed is set and its package missing. Call it before TRL reads the settings.

    Transformers needs the package to read them.
    """
    flagged = any(word.partition("=")[0] == "--deepspeed" for word in argv)
    if (flagged or recipe.get("deepspeed") or is_launched("DeepSpeed", environ)) and find_spec("deepspeed") is None:
        raise TrainerError("--deepspeed needs the package deepspeed: pip install deepspeed")


def check_sharding(args: TrainingConfig, on_hack: str, environ: Mapping[str, str]) -> None:
    """Refuse settings that a sharded policy cannot have."""
    name = sharded_by(args, environ)
    if name is None:
        return
    if name == "FSDP" and launched_processes(environ) == 1:
        raise TrainerError("FSDP shards a policy over processes, and this is one: start several with torchrun")
    if on_hack == "keep_best":
        raise TrainerError(f"--on_hack keep_best cannot load a checkpoint into a policy sharded by {name}: choose stop")
    zero = getattr(args, "hf_deepspeed_config", None)
    gathers = "zero_optimization.stage3_gather_16bit_weights_on_model_save"
    if zero is not None and zero.is_zero3() and not zero.is_true(gathers):
        raise TrainerError(
            "DeepSpeed would save shards, which are no policy: set stage3_gather_16bit_weights_on_model_save to true "
            "in its zero_optimization"
        )


@contextmanager
def whole_weights(args: TrainingConfig) -> Iterator[None]:
    """Have transformers load whole models inside the block, in every process of a run that shards its policy."""
    loading, zero = os.environ.get(EFFICIENT_LOADING), getattr(args, "hf_deepspeed_config", None)
    os.environ[EFFICIENT_LOADING] = "false"
    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if zero is not None:
            set_hf_deepspeed_config(zero)
        if loading is None:
            del os.environ[EFFICIENT_LOADING]
        else:
            os.environ[EFFICIENT_LOADING] = loading

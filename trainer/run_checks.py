"""Refuse settings of ours that cannot work, before anything slow is done."""

import math

from trl import ModelConfig

from trainer.algorithms import OFFLINE, TrainingConfig
from trainer.diversity import DIVERSITY
from trainer.errors import TrainerError
from trainer.interpolation import check_share
from trainer.monitor.callback import ON_HACK
from trainer.run_arguments import RunArguments
from trainer.settings_checks import enum_value

MUST_BE_POSITIVE = ("reward_timeout_s", "eval_max_new_tokens", "eval_batch", "max_minutes")
"""The run arguments that must be above 0."""


def check_run(run: RunArguments, algorithm: str) -> None:
    """Refuse run arguments that cannot work, before anything slow is done."""
    if run.algorithm != algorithm:  # argparse takes --alg for it, too
        raise TrainerError(f"write --algorithm {run.algorithm} in full")
    for decoding in run.eval_decodings:
        if decoding not in {"greedy", "sampled"}:
            raise TrainerError(f"unknown decoding {decoding!r} in --eval_decodings; choose greedy, sampled or both")
    if run.eval_limit is not None and run.eval_limit < 1:
        raise TrainerError(f"--eval_limit {run.eval_limit}: evaluate on at least one prompt")
    if len(set(run.rewards)) != len(run.rewards) or not run.rewards:
        raise TrainerError("--rewards: name at least one reward to train on, and each only once")
    for name in MUST_BE_POSITIVE:
        if (value := getattr(run, name)) is not None and not value > 0:  # also true for NaN
            raise TrainerError(f"--{name} {value}: choose a number above 0")
    if run.hedge_after_s is not None and not run.hedge_after_s >= 0:
        raise TrainerError(f"--hedge_after_s {run.hedge_after_s}: choose a number above 0, or 0 for never")
    if not run.reward_url or not all(run.reward_url):
        raise TrainerError("no reward service is given: set REWARD_URL or --reward_url, such as http://127.0.0.1:8088")
    check_diversity(run)


def check_diversity(run: RunArguments) -> None:
    """Refuse a negative or infinite weight, and a reward of the service or a judge of the same name."""
    if not 0 <= run.diversity_weight < math.inf:
        raise TrainerError(f"--diversity_weight {run.diversity_weight:g}: choose a number from 0 on")
    if run.diversity_weight and DIVERSITY in {*run.rewards, *run.judges}:
        raise TrainerError(
            f"--diversity_weight adds a reward {DIVERSITY!r}, and the service's has the same name: leave one out"
        )


def check_interpolation(share: float, model: ModelConfig, *, merge_lora: bool) -> None:
    """Refuse a share outside of (0, 1], and a LoRA adapter that is not merged."""
    check_share("--interpolation", share)
    if model.use_peft and not merge_lora and share < 1:
        raise TrainerError(
            "--interpolation needs a whole model, not an adapter: pass --merge_lora true or --interpolation 1"
        )


def check_on_hack(run: RunArguments, args: TrainingConfig) -> None:
    """Refuse to keep the best checkpoint without judges or checkpoints."""
    if run.on_hack not in ON_HACK:
        raise TrainerError(f"unknown --on_hack {run.on_hack!r}; choose {', '.join(ON_HACK)}")
    if run.on_hack != "keep_best":
        return
    unweighted = 0 in (getattr(args, "reward_weights", None) or ())
    if not (run.remote_judges or run.local_judges or unweighted):
        raise TrainerError(
            "--on_hack keep_best needs --judges that the run does not train on, by which the best checkpoint is chosen"
        )
    if enum_value(args.save_strategy) == "no":
        raise TrainerError(
            "--on_hack keep_best needs checkpoints to choose from: add --save_strategy steps --save_steps 5 "
            "--save_total_limit 2"
        )


def check_completions(run: RunArguments) -> None:
    """Refuse to learn from completions without a file of them."""
    if run.algorithm in OFFLINE and run.completions is None:
        raise TrainerError(
            f"--algorithm {run.algorithm} learns from completions in a file: name it with --completions, such as that "
            f"of `reward-trainer sample`"
        )
    if not 0 <= run.margin < math.inf:
        raise TrainerError(f"--margin {run.margin:g}: choose a number from 0 on")

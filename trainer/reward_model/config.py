"""The settings of a reward model: our own beside TRL's RewardConfig and ModelConfig, as `train` reads them."""

import math
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path

from trl import ModelConfig, RewardConfig, TrlParser

from trainer.display import log
from trainer.errors import TrainerError
from trainer.hub import check_adapter_can_be_pushed
from trainer.recipe_files import check_keys, last_value, read_recipe, resolve_recipe
from trainer.reward_model.reading import INPUTS
from trainer.run_checks import check_interpolation
from trainer.settings_checks import SUPPORTED_MODEL_ARGS, add_revision, check_output_dir

RATINGS = "ratings"
"""The value of `--pairs` for pairs of the embedded human ratings, and the recipe that trains on them."""
DEFAULTS = {
    "output_dir": "runs/reward_model",
    "model_name_or_path": "embedded:minilm",
    "lora_task_type": "SEQ_CLS",
    "center_rewards_coefficient": 0.01,
    "gradient_checkpointing": False,
    "bf16": False,
    "save_steps": 100,
    "save_total_limit": 1,
    "report_to": "none",
    "disable_tqdm": True,
}
"""Defaults that differ from TRL's: for a small model on a CPU, with scores centred near 0."""
LORA_ARGS = {"use_peft", "use_rslora", "use_dora"}


@dataclass
class RewardModelArguments:
    """The pairs and the reading of a reward model."""

    recipe: str = field(default="reward_model", metadata={"help": "Name of the run."})
    pairs: str = field(
        default=RATINGS,
        metadata={
            "help": "JSONL file with `chosen`, `rejected` and maybe `prompt` and `source` in each line; the file of "
            "`reward-trainer sample`, of which the best and the worst completion of each prompt are a pair; or "
            "`ratings` for pairs of the embedded human ratings."
        },
    )
    heldout_pairs: str | None = field(
        default=None, metadata={"help": "JSONL file of pairs to evaluate on, instead of a share of --pairs."}
    )
    heldout_share: float = field(
        default=0.1, metadata={"help": "Share of --pairs that is held out; pairs with a common prompt stay together."}
    )
    rounds: int = field(
        default=1, metadata={"help": "With `ratings`: number of pairs that each sentence is in, each with another one."}
    )
    by: str | None = field(
        default=None, metadata={"help": "With sampled completions: the reward to choose by. Default: the first."}
    )
    margin: float = field(
        default=0.0,
        metadata={"help": "With sampled completions: best and worst must be further apart in score than this."},
    )
    input: str = field(
        default="auto",
        metadata={"help": f"What the model reads: {', '.join(INPUTS)}; auto chooses by the pairs and the tokenizer."},
    )
    frozen_layers: int = field(
        default=0, metadata={"help": "Number of the model's lowest layers to freeze, together with its embeddings."}
    )
    merge_lora: bool = field(
        default=True,
        metadata={"help": "With --use_peft: save one whole model, not an adapter that needs its base model."},
    )
    interpolation: float = field(
        default=1.0,
        metadata={
            "help": "Share of what training changed in the weights that the saved model keeps: below 1, it keeps more "
            "of what it knew before."
        },
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace an earlier reward model in --output_dir."})


Settings = tuple[RewardModelArguments, RewardConfig, ModelConfig]


def parse(argv: Sequence[str]) -> Settings:
    """Parse flags and the recipe named by `--config`; flags take precedence. Raises `TrainerError`.

    Without a recipe, and without pairs other than the ratings, the recipe is `ratings`.
    """
    argv = list(argv)
    if last_value(argv, "--config") is None and last_value(argv, "--pairs") in (None, RATINGS):
        argv = ["--config", RATINGS, *argv]
    recipe = resolve_recipe(argv)
    kinds = (RewardModelArguments, RewardConfig, ModelConfig)
    if recipe is not None:
        check_keys(recipe, read_recipe(recipe), {item.name for kind in kinds for item in fields(kind)} | {"env"})
    parser = TrlParser(kinds, prog="reward-trainer reward-model")
    parser.set_defaults_with_config(**DEFAULTS)
    try:
        run, reward, model = parser.parse_args_and_config(argv, fail_with_unknown_args=True)
    except ValueError as error:
        raise TrainerError(f"these settings cannot be used: {' '.join(str(error).split())}") from error
    check_arguments(run)
    check_interpolation(run.interpolation, model, merge_lora=run.merge_lora)
    check_reward_config(reward)
    check_model_config(model)
    add_revision(model)
    if model.use_peft and not run.merge_lora:
        check_adapter_can_be_pushed(reward, str(model.model_name_or_path))
    if model.use_peft and run.frozen_layers:
        log("frozen_layers has no effect with --use_peft true, which freezes the whole model below the adapter")
        run.frozen_layers = 0
    return run, reward, model


def check_arguments(run: RewardModelArguments) -> None:
    """Refuse arguments that cannot work, before anything slow is done."""
    if run.input not in ("auto", *INPUTS):
        raise TrainerError(f"unknown --input {run.input!r}; choose auto, {', '.join(INPUTS)}")
    if not 0 <= run.heldout_share < 1:
        raise TrainerError(f"--heldout_share {run.heldout_share:g}: choose a share from 0 to below 1")
    if not 0 <= run.margin < math.inf:
        raise TrainerError(f"--margin {run.margin:g}: choose a number from 0 on")
    if run.rounds < 1:
        raise TrainerError(f"--rounds {run.rounds}: each sentence is in at least one pair")


def check_reward_config(reward: RewardConfig) -> None:
    """Refuse settings of TRL's RewardConfig that this trainer does not support."""
    if reward.eval_strategy != "no" or reward.eval_on_start:
        raise TrainerError(
            "--eval_strategy and --eval_on_start are not supported, because held-out pairs are evaluated after "
            "training: leave them out"
        )
    if reward.save_only_model:
        raise TrainerError("--save_only_model true makes checkpoints that cannot be resumed: leave it out")
    if reward.trust_remote_code:
        raise TrainerError("--trust_remote_code true is refused: no code from a model's folder is run")
    if reward.eos_token is not None:
        raise TrainerError("--eos_token is not supported here: leave it out")
    check_output_dir(Path(reward.output_dir))


def check_model_config(model: ModelConfig) -> None:
    """Refuse settings of TRL's ModelConfig that this trainer would ignore."""
    for item in fields(ModelConfig):
        if item.name in SUPPORTED_MODEL_ARGS | LORA_ARGS or item.name.startswith("lora_") or item.default is MISSING:
            continue
        if getattr(model, item.name) != item.default:
            raise TrainerError(f"--{item.name} is not supported here; run TRL's own `trl reward` for that")

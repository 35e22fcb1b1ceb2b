"""The settings of a run: our own beside TRL's, from the command line and one YAML file, the recipe."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from trl import ModelConfig

from remote_rewards.trl import urls_from_environment
from trainer.algorithms import (
    CONFIG_CLASSES,
    DEFAULT,
    OFFLINE,
    TrainingConfig,
    check_algorithm,
    chosen_algorithm,
    setting_names,
    settings_for,
)
from trainer.diversity import DIVERSITY
from trainer.errors import TrainerError
from trainer.expectations import parse_bounds
from trainer.judges import LOCAL_JUDGES
from trainer.monitor.callback import ON_HACK
from trainer.recipe_files import check_keys, read_recipe, resolve_recipe, without_config
from trainer.settings_checks import check_model, check_training, enum_value
from trainer.settings_parsing import TRAIN, parse_used, parser_of, unusable
from trainer.sharding import check_deepspeed_installed

MUST_BE_POSITIVE = ("reward_timeout_s", "eval_max_new_tokens", "eval_batch", "max_minutes")
"""The run arguments that must be above 0."""


@dataclass
class RunArguments:
    """The rewards, the prompts and the evaluation of a run."""

    recipe: str = field(default="run", metadata={"help": "Name of the run."})
    question: str = field(
        default="", metadata={"help": "The question that the run answers, in one sentence: the report's title."}
    )
    algorithm: str = field(
        default=DEFAULT,
        metadata={"help": f"How the policy is trained: {', '.join(CONFIG_CLASSES)}. Its settings are those of TRL."},
    )
    reward_url: list[str] = field(
        default_factory=urls_from_environment,
        metadata={"help": "URL of the reward service, or URLs of its replicas. $REWARD_URL sets the default."},
    )
    rewards: list[str] = field(
        default_factory=lambda: ["sentiment"],
        metadata={"help": "Names of the rewards to train on. Set their weights with --reward_weights."},
    )
    failure_budget: float = field(
        default=0.01,
        metadata={"help": "Fraction of recent completions that may fail to be scored before the run stops."},
    )
    reward_timeout_s: float = field(
        default=300.0,
        metadata={"help": "Timeout of one reward call in seconds, retries included, after which the run stops."},
    )
    hedge_after_s: float | None = field(
        default=None,
        metadata={
            "help": "Send a slow request to a second replica, too, after this many seconds (0: never); "
            "by default after a time taken from the latencies so far."
        },
    )
    wait_for_rewards_s: float = field(
        default=10.0,
        metadata={
            "help": "How long to wait for the service before giving up, in seconds; at least 10 minutes if it responds "
            "that it is loading its models."
        },
    )
    allow_revision_change: bool = field(
        default=False,
        metadata={"help": "Continue the run when a reward changes its revision, and log the change."},
    )
    completions: str | None = field(
        default=None,
        metadata={
            "help": "With dpo and sft: what to learn from. The file of `reward-trainer sample`, from which the first "
            "of --rewards chooses; or a JSONL file with `prompt`, `chosen` and `rejected` in each line for dpo, "
            "`prompt` and `completion` for sft."
        },
    )
    margin: float = field(
        default=0.0,
        metadata={"help": "With dpo and sampled completions: best and worst must be further apart in score than this."},
    )
    min_score: float | None = field(
        default=None,
        metadata={"help": "With sft and sampled completions: the lowest score of a prompt's best completion."},
    )
    max_minutes: float | None = field(
        default=None, metadata={"help": "Stop training, or sampling, after this number of minutes."}
    )
    prompts: str = field(
        default="recipe:optimist_train.jsonl",
        metadata={"help": "Training prompts: a JSONL file, or recipe:<file> for one of the package."},
    )
    heldout_prompts: str = field(
        default="recipe:optimist_heldout.jsonl",
        metadata={"help": "Prompts to evaluate on. None of them may be a training prompt."},
    )
    system_prompt: str | None = field(default=None, metadata={"help": "System message put before every prompt."})
    few_shot: str | None = field(
        default=None,
        metadata={"help": "JSONL file of examples, a prompt and a completion a line: turns before every prompt."},
    )
    frozen_layers: int = field(
        default=0,
        metadata={"help": "Number of the policy's lowest layers to freeze, together with its embeddings."},
    )
    interpolation: float = field(
        default=1.0,
        metadata={
            "help": "Share of what training changed in the weights that the saved policy keeps: below 1, it stays "
            "nearer to the policy before training."
        },
    )
    merge_lora: bool = field(
        default=True,
        metadata={"help": "With --use_peft: save one whole model, not an adapter that needs its base model."},
    )
    diversity_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight of the reward `diversity`, with rloo and grpo: what a completion has in common with those "
            "of other prompts costs."
        },
    )
    judges: list[str] = field(
        default_factory=list,
        metadata={
            "help": "What scores the completions of each step and evaluation without being trained on: rewards of the "
            f"service, or {', '.join(LOCAL_JUDGES)}."
        },
    )
    on_hack: str = field(
        default="warn",
        metadata={
            "help": "When the reward is being gamed: warn, stop the run, or keep_best (the run ends with its best "
            "checkpoint by reward and judges)."
        },
    )
    eval_limit: int | None = field(
        default=None, metadata={"help": "Evaluate on this number of held-out prompts instead of all."}
    )
    eval_max_new_tokens: int = field(
        default=50, metadata={"help": "Maximum length of the evaluated completions, in tokens."}
    )
    eval_temperature: float = field(default=0.7, metadata={"help": "Temperature of the decoding `sampled`."})
    eval_decodings: list[str] = field(
        default_factory=lambda: ["greedy", "sampled"],
        metadata={"help": "How the evaluated completions are decoded: greedy, sampled."},
    )
    eval_batch: int = field(default=100, metadata={"help": "Batch size of the evaluation, in completions."})
    eval_kl: bool = field(
        default=True,
        metadata={
            "help": "Measure the KL divergence of the trained policy from the one before, which is loaded again for it."
        },
    )
    kl_from: str | None = field(
        default=None,
        metadata={
            "help": "Measure it from this policy instead: a folder, a hub id or embedded:<name>. Without it "
            "`evaluate` measures none."
        },
    )
    expect: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "Lower bounds that means after training should reach, such as '{sampled.vader: 0.7}'."},
    )
    expect_gain: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "Lower bounds for the differences between after and before, in the same form."},
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace an earlier run in --output_dir."})

    @property
    def before_prompts(self) -> dict[str, str | None]:
        """What comes before every prompt: settings of `read_prompts`."""
        return {"system_prompt": self.system_prompt, "few_shot": self.few_shot}

    @property
    def local_judges(self) -> list[str]:
        """The judges that need no service."""
        return [name for name in dict.fromkeys(self.judges) if name in LOCAL_JUDGES]

    @property
    def remote_judges(self) -> list[str]:
        """The judges that are rewards of the service, without those that the run trains on."""
        return [name for name in dict.fromkeys(self.judges) if name not in {*LOCAL_JUDGES, *self.rewards}]


Settings = tuple[RunArguments, TrainingConfig, ModelConfig]


def parse(argv: Sequence[str], prog: str = TRAIN) -> Settings:
    """Parse flags and the recipe named by `--config`; flags take precedence. Raises `TrainerError`."""
    kinds, flags, settings = _read(argv)
    run, args, model = parse_used(kinds, flags, settings, prog)
    run.expect, run.expect_gain = parse_bounds("expect", run.expect), parse_bounds("expect_gain", run.expect_gain)
    check_run(run, settings["algorithm"])
    check_model(model)
    if model.use_peft and not run.merge_lora and run.interpolation < 1:
        raise TrainerError("--interpolation needs a whole model, not an adapter: leave out --merge_lora false")
    check_training(args)
    check_completions(run)
    check_on_hack(run, args)
    return run, args, model


def check_flags(argv: Sequence[str]) -> None:
    """Check the recipe, and the names and types of the flags, on a machine without the devices of the run.

    Raises `TrainerError`, or exits as argparse does.
    """
    kinds, flags, settings = _read(argv)
    _, unknown = parser_of(kinds, flags, settings, TRAIN).parse_known_args(flags)
    if unknown:
        raise unusable(f"unknown flags {' '.join(unknown)}")


def _read(argv: Sequence[str]) -> tuple[Sequence[type], list[str], dict[str, Any]]:
    """Return the dataclasses of a run's settings, the flags beside `--config`, and the recipe's settings."""
    argv = list(argv)
    path = resolve_recipe(argv)
    recipe = {} if path is None else read_recipe(path)
    algorithm = chosen_algorithm(argv, recipe)
    settings = {**settings_for(algorithm, recipe), "algorithm": algorithm}
    check_algorithm(algorithm, argv, settings, recipe)
    if path is not None:
        check_keys(path, settings, _known_keys(algorithm))
        argv = without_config(argv)
    check_deepspeed_installed(argv, settings, os.environ)
    set_environment(settings.pop("env", None) or {})
    return (RunArguments, CONFIG_CLASSES[algorithm], ModelConfig), argv, settings


def set_environment(variables: Any) -> None:
    """Set the environment variables of a recipe's `env`, as TRL does. Raises `TrainerError`."""
    if not isinstance(variables, dict):
        raise TrainerError("the recipe's `env` is not a mapping of environment variables to values")
    os.environ.update({key: str(value) for key, value in variables.items()})


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
    if not 0 < run.interpolation <= 1:
        raise TrainerError(f"--interpolation {run.interpolation:g}: choose a number above 0, up to 1")
    check_diversity(run)
    if run.hedge_after_s is not None and not run.hedge_after_s >= 0:
        raise TrainerError(f"--hedge_after_s {run.hedge_after_s}: choose a number above 0, or 0 for never")
    if not run.reward_url or not all(run.reward_url):
        raise TrainerError("no reward service is given: set REWARD_URL or --reward_url, such as http://127.0.0.1:8088")


def check_diversity(run: RunArguments) -> None:
    """Refuse a weight that is no price, and another reward of the name."""
    if not 0 <= run.diversity_weight < math.inf:
        raise TrainerError(f"--diversity_weight {run.diversity_weight:g}: choose a number from 0 on")
    if run.diversity_weight and DIVERSITY in {*run.rewards, *run.judges}:
        raise TrainerError(
            f"--diversity_weight adds a reward {DIVERSITY!r}, and the service's has the same name: leave one out"
        )


def _known_keys(algorithm: str) -> set[str]:
    ours = {item.name for kind in (RunArguments, ModelConfig) for item in fields(kind)}
    return ours | setting_names(algorithm) | {"env"}

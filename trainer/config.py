"""What a run is: our own settings beside TRL's, in one YAML file that is called a recipe."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, dataclass, field, fields
from importlib import resources
from math import ceil, inf, lcm
from pathlib import Path
from typing import Any, get_origin

import yaml
from trl import ModelConfig, RLOOConfig, TrlParser

from remote_rewards.trl import urls_from_environment
from shared.errors import did_you_mean
from trainer.errors import TrainerError
from trainer.eval_metrics import EVAL_METRICS

SUPPORTED_MODEL_ARGS = {"model_name_or_path", "dtype", "attn_implementation"}
"""The settings of TRL's ModelConfig that the policy is loaded with."""
MUST_BE_POSITIVE = ("reward_timeout_s", "eval_max_new_tokens", "eval_batch")
"""The settings of ours that only a number above 0 makes sense for."""


@dataclass
class RunArguments:
    """The rewards, the prompts and the checks of a run."""

    recipe: str = field(default="run", metadata={"help": "Name of the run."})
    question: str = field(default="", metadata={"help": "One sentence: what the run tries."})
    reward_url: list[str] = field(
        default_factory=urls_from_environment,
        metadata={"help": "Addresses of the reward service, several for several replicas (default: $REWARD_URL)."},
    )
    rewards: list[str] = field(
        default_factory=lambda: ["sentiment"],
        metadata={"help": "Names of the rewards to train on; their weights are TRL's reward_weights."},
    )
    failure_budget: float = field(
        default=0.01,
        metadata={"help": "Share of recent completions that may fail to be scored before the run stops."},
    )
    reward_timeout_s: float = field(
        default=300.0, metadata={"help": "A call for rewards may take so long, retries included, before the run stops."}
    )
    hedge_after_s: float | None = field(
        default=None, metadata={"help": "Also send a reward request that takes longer than this to another replica."}
    )
    wait_for_rewards_s: float = field(
        default=10.0, metadata={"help": "So long the rewards may take to become ready before the run does not begin."}
    )
    allow_revision_change: bool = field(
        default=False, metadata={"help": "Go on when a reward is replaced by another revision of it, and log that."}
    )
    prompts: str = field(
        default="recipe:optimist_train.jsonl",
        metadata={"help": "Prompts to train on: a JSONL file, or recipe:<file> for one that comes with the package."},
    )
    heldout_prompts: str = field(
        default="recipe:optimist_heldout.jsonl", metadata={"help": "Prompts to measure on, never trained on."}
    )
    system_prompt: str | None = field(default=None, metadata={"help": "Put before every prompt."})
    frozen_layers: int = field(
        default=0,
        metadata={"help": "So many of the policy's lowest layers, and its embeddings, are not trained."},
    )
    eval_rewards: list[str] = field(
        default_factory=list, metadata={"help": "Rewards to measure with beside those trained on."}
    )
    judges: list[str] = field(
        default_factory=list, metadata={"help": f"Judges never trained on: {', '.join(EVAL_METRICS)}."}
    )
    eval_limit: int | None = field(default=None, metadata={"help": "Measure on so many held-out prompts only."})
    eval_max_new_tokens: int = field(default=50, metadata={"help": "Length of the replies that are measured."})
    eval_temperature: float = field(default=0.7, metadata={"help": "Temperature of the sampled replies."})
    eval_decodings: list[str] = field(
        default_factory=lambda: ["greedy", "sampled"], metadata={"help": "How the replies are decoded."}
    )
    eval_batch: int = field(default=100, metadata={"help": "Replies generated at a time when measuring."})
    expect: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "Bounds that the run is expected to reach, such as sampled.vader: 0.7."},
    )
    expect_gain: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "The same for the difference between after and before."}
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace an earlier run in the same folder."})


def parse(argv: Sequence[str]) -> tuple[RunArguments, RLOOConfig, ModelConfig]:
    """Read flags and the recipe that `--config` names. Raises `TrainerError` for what no run could follow."""
    argv = list(argv)
    recipe = _recipe_of(argv)
    if recipe is not None:
        check_keys(recipe, _known_keys())
    parser = TrlParser((RunArguments, RLOOConfig, ModelConfig), prog="reward-trainer train")
    parser.set_defaults_with_config(logging_steps=1)
    try:
        run, rloo, model = parser.parse_args_and_config(argv, fail_with_unknown_args=True)
    except ValueError as error:
        raise TrainerError(f"these settings cannot be used: {' '.join(str(error).split())}") from error
    wrap_scalars(run, rloo)
    run.expect, run.expect_gain = parse_bounds("expect", run.expect), parse_bounds("expect_gain", run.expect_gain)
    check(run)
    check_model(model)
    check_trl(rloo)
    check_saving(rloo)
    check_logging(rloo)
    return run, rloo, model


def wrap_scalars(run: RunArguments, rloo: RLOOConfig) -> None:
    """Take a recipe's single value as a list of one where a list is expected, as the command line does."""
    for item in fields(run):
        if get_origin(item.type) is list:
            setattr(run, item.name, _listed(getattr(run, item.name)))
    if rloo.reward_weights is not None:
        rloo.reward_weights = _listed(rloo.reward_weights)


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def parse_bounds(name: str, given: Any) -> dict[str, float] | None:
    """Read bounds, from a recipe or from the command line. Raises `TrainerError` where they are none."""
    bounds = _yaml(given) if isinstance(given, str) else given
    if bounds is None:
        return None
    if not isinstance(bounds, dict) or not all(type(bound) in (int, float) for bound in bounds.values()):
        raise TrainerError(f"--{name} maps figures to bounds, such as '{{sampled.vader: 0.7}}', and is not {given!r}")
    return bounds


def _yaml(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def check_saving(rloo: RLOOConfig) -> None:
    """Refuse checkpoints from which a run cannot go on as it was.

    What is left of a generation batch is in none. A run that its rewards stop leaves one though it was to save none.
    """
    if rloo.save_only_model:
        raise TrainerError("--save_only_model true leaves checkpoints from which no run can go on: leave it out")
    if enum_value(rloo.save_strategy) != "steps":
        return
    lasts = lcm(rloo.steps_per_generation * rloo.num_iterations, rloo.gradient_accumulation_steps)
    lasts //= rloo.gradient_accumulation_steps
    steps = rloo.max_steps if rloo.max_steps >= 0 else inf  # of epochs, it is known only with the prompts
    every = rloo.save_steps if rloo.save_steps >= 1 or steps == inf else ceil(rloo.save_steps * steps)
    if lasts > 1 and every < steps and every % lasts:
        raise TrainerError(
            f"--save_steps {rloo.save_steps:g} falls inside a generation batch, which lasts {lasts} steps, and such a "
            f"checkpoint cannot be resumed with the rewards it would have had: take a multiple of {lasts}"
        )


def check_logging(rloo: RLOOConfig) -> None:
    """Refuse to note some of the steps only: metrics and replies are kept with each, and the report is made of them."""
    if rloo.logging_steps != 1 or enum_value(rloo.logging_strategy) != "steps":
        raise TrainerError("each step is noted: leave --logging_steps and --logging_strategy out, or take 1 and steps")


def enum_value(choice: Any) -> str:
    """Give the word of one of TRL's choices, which are enumerations or words."""
    return str(getattr(choice, "value", choice))


def check(run: RunArguments) -> None:
    """Refuse what cannot work before anything slow is done."""
    for judge in run.judges:
        if judge not in EVAL_METRICS:
            raise TrainerError(
                f"there is no judge {judge!r}{did_you_mean(judge, EVAL_METRICS)}; there are {', '.join(EVAL_METRICS)}"
            )
    for decoding in run.eval_decodings:
        if decoding not in {"greedy", "sampled"}:
            raise TrainerError(f"there is no decoding {decoding!r}: greedy and sampled are")
    if run.eval_limit is not None and run.eval_limit < 1:
        raise TrainerError(f"--eval_limit {run.eval_limit}: measure on at least one prompt")
    if len(set(run.rewards)) != len(run.rewards) or not run.rewards:
        raise TrainerError("name each reward to train on once")
    for name in MUST_BE_POSITIVE:
        if not (getattr(run, name) or 0) > 0:  # NaN is not, either
            raise TrainerError(f"--{name} {getattr(run, name)}: choose a number above 0")
    if run.hedge_after_s is not None and not run.hedge_after_s > 0:
        raise TrainerError(f"--hedge_after_s {run.hedge_after_s}: choose a number above 0")
    if not run.reward_url or not all(run.reward_url):
        raise TrainerError("say where the rewards are: REWARD_URL or --reward_url, such as http://127.0.0.1:8088")


def check_trl(rloo: RLOOConfig) -> None:
    """Refuse settings of TRL's RLOOConfig that this trainer cannot follow."""
    if rloo.eval_strategy != "no" or rloo.eval_on_start:
        raise TrainerError(
            "--eval_strategy and --eval_on_start are not supported here: held-out prompts are measured before and "
            "after training"
        )
    check_output_dir(Path(rloo.output_dir))


def check_output_dir(path: Path) -> None:
    """Refuse a folder that could not be made or written to."""
    there = next((folder for folder in (path, *path.parents) if os.path.exists(folder)), path)
    if not (os.path.isdir(there) and os.access(there, os.W_OK | os.X_OK)):
        raise TrainerError(f"--output_dir {path}: {there} is no folder that can be written to; choose another")


def check_model(model: ModelConfig) -> None:
    """Refuse settings of TRL's ModelConfig that this trainer would ignore."""
    if model.model_name_or_path is None:
        raise TrainerError("name the policy: --model_name_or_path with a folder, a hub id or embedded:smollm2")
    for item in fields(ModelConfig):
        if (
            item.name not in SUPPORTED_MODEL_ARGS
            and item.default is not MISSING
            and getattr(model, item.name) != item.default
        ):
            raise TrainerError(
                f"--{item.name} is not supported here; for that, run TRL's own `trl rloo` with "
                f"--reward_funcs remote_rewards.<reward>"
            )


def check_keys(path: Path, known: Iterable[str]) -> None:
    """Name a recipe's misspelt key and the one that was meant."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise TrainerError(f"{path} is not UTF-8: save it as UTF-8") from error
    except OSError as error:
        raise TrainerError(f"cannot read the recipe {path}: {error.strerror}; there are {_packaged()}") from error
    except yaml.YAMLError as error:
        raise TrainerError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise TrainerError(f"{path} is not a recipe: it should hold `key: value` lines")
    known = set(known)
    for key in content:
        if key not in known:
            raise TrainerError(f"{path}: there is no setting {key!r}{did_you_mean(str(key), known)}")


def recipe_path(name: str) -> Path:
    """Find a recipe: a path, or the name of one that comes with the package."""
    path = Path(name)
    packaged = Path(str(resources.files("trainer") / "recipes" / f"{name}.yaml"))
    return packaged if not path.exists() and packaged.exists() else path


def _recipe_of(argv: list[str]) -> Path | None:
    """Find the recipe, and write its path as TRL reads it: as a word of its own after `--config`."""
    for index, word in enumerate(argv):
        flag, joined, name = word.partition("=")
        if flag == "--config":
            name = name if joined else "".join(argv[index + 1 : index + 2])
            if not name:
                raise TrainerError(f"name a recipe after --config: a path, or one of {_packaged()}")
            path = recipe_path(name)
            argv[index : index + (1 if joined else 2)] = ["--config", str(path)]
            return path
    return None


def _known_keys() -> set[str]:
    return {item.name for kind in (RunArguments, RLOOConfig, ModelConfig) for item in fields(kind)} | {"env"}


def _packaged() -> str:
    folder = resources.files("trainer") / "recipes"
    return ", ".join(sorted(item.name for item in folder.iterdir() if item.name.endswith(".yaml")))

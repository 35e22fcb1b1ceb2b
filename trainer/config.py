"""The settings of a run: our own beside TRL's, from the command line and one YAML file, the recipe."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any, get_origin

import yaml
from trl import ModelConfig, TrlParser

from remote_rewards.trl import urls_from_environment
from shared.errors import did_you_mean
from trainer.algorithms import CONFIG_CLASSES, DEFAULT, TrainingConfig, check_algorithm, chosen_algorithm, setting_names
from trainer.errors import TrainerError
from trainer.judges import LOCAL_JUDGES
from trainer.monitor.callback import ON_HACK
from trainer.settings_checks import check_lora, check_model, check_training, enum_value

MUST_BE_POSITIVE = ("reward_timeout_s", "eval_max_new_tokens", "eval_batch")
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
            "help": "Send a slow reward request to a second replica, too, after this many seconds; 0: never. "
            "By default after a time taken from the latencies so far."
        },
    )
    wait_for_rewards_s: float = field(
        default=10.0,
        metadata={"help": "How long to wait for the rewards to become ready before giving up, in seconds."},
    )
    allow_revision_change: bool = field(
        default=False,
        metadata={"help": "Continue the run when a reward changes its revision, and log the change."},
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
    frozen_layers: int = field(
        default=0,
        metadata={"help": "Number of the policy's lowest layers to freeze, together with its embeddings."},
    )
    merge_lora: bool = field(
        default=True,
        metadata={
            "help": "With --use_peft: save the policy as one model, not as an adapter that needs its base model."
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
    def local_judges(self) -> list[str]:
        """The judges that need no service."""
        return [name for name in dict.fromkeys(self.judges) if name in LOCAL_JUDGES]

    @property
    def remote_judges(self) -> list[str]:
        """The judges that are rewards of the service, without those that the run trains on."""
        return [name for name in dict.fromkeys(self.judges) if name not in {*LOCAL_JUDGES, *self.rewards}]


def parse(argv: Sequence[str], prog: str = "reward-trainer train") -> tuple[RunArguments, TrainingConfig, ModelConfig]:
    """Parse flags and the recipe named by `--config`; flags take precedence. Raises `TrainerError`."""
    argv = list(argv)
    path = resolve_recipe(argv)
    recipe = {} if path is None else read_recipe(path)
    algorithm = chosen_algorithm(argv, recipe)
    check_algorithm(algorithm, argv, recipe)
    if path is not None:
        check_keys(path, recipe, _known_keys(algorithm))
    parser = TrlParser((RunArguments, CONFIG_CLASSES[algorithm], ModelConfig), prog=prog)
    parser.set_defaults_with_config(logging_steps=1)
    try:
        run, args, model = parser.parse_args_and_config(argv, fail_with_unknown_args=True)
    except ValueError as error:
        raise TrainerError(f"these settings cannot be used: {' '.join(str(error).split())}") from error
    wrap_scalars(run, args)
    run.expect, run.expect_gain = parse_bounds("expect", run.expect), parse_bounds("expect_gain", run.expect_gain)
    check_run(run, algorithm)
    check_model(model)
    check_lora(model, run.frozen_layers)
    check_training(args)
    check_on_hack(run, args)
    return run, args, model


def wrap_scalars(run: RunArguments, args: TrainingConfig) -> None:
    """Wrap a recipe's single value into a list where a list is expected, as the command line does."""
    for item in fields(run):
        if get_origin(item.type) is list:
            setattr(run, item.name, _as_list(getattr(run, item.name)))
    if args.reward_weights is not None:
        args.reward_weights = _as_list(args.reward_weights)


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def parse_bounds(name: str, value: Any) -> dict[str, float] | None:
    """Return bounds given as a mapping or as YAML text. Raises `TrainerError` for anything else."""
    bounds = _parse_yaml(value) if isinstance(value, str) else value
    if bounds is None:
        return None
    if not isinstance(bounds, dict) or not all(type(bound) in (int, float) for bound in bounds.values()):
        raise TrainerError(f"--{name} {value!r} is not a mapping of scores to bounds, such as '{{sampled.vader: 0.7}}'")
    return bounds


def _parse_yaml(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def check_on_hack(run: RunArguments, args: TrainingConfig) -> None:
    """Refuse to keep the best checkpoint without judges or checkpoints."""
    if run.on_hack not in ON_HACK:
        raise TrainerError(f"unknown --on_hack {run.on_hack!r}; choose {', '.join(ON_HACK)}")
    if run.on_hack != "keep_best":
        return
    if not run.judges:
        raise TrainerError("--on_hack keep_best needs --judges, by which the best checkpoint is chosen")
    if enum_value(args.save_strategy) == "no":
        raise TrainerError(
            "--on_hack keep_best needs checkpoints to choose from: add --save_strategy steps --save_steps 5 "
            "--save_total_limit 2"
        )


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
        if not (getattr(run, name) or 0) > 0:  # also true for NaN
            raise TrainerError(f"--{name} {getattr(run, name)}: choose a number above 0")
    if run.hedge_after_s is not None and not run.hedge_after_s >= 0:
        raise TrainerError(f"--hedge_after_s {run.hedge_after_s}: choose a number above 0, or 0 for never")
    if not run.reward_url or not all(run.reward_url):
        raise TrainerError("no reward service is given: set REWARD_URL or --reward_url, such as http://127.0.0.1:8088")


def read_recipe(path: Path) -> dict[str, Any]:
    """Return the settings of a recipe. Raises `TrainerError` if it cannot be read."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise TrainerError(f"{path} is not UTF-8: save it as UTF-8") from error
    except OSError as error:
        raise TrainerError(f"cannot read the recipe {path}: {error.strerror}; choose from {_packaged()}") from error
    except yaml.YAMLError as error:
        raise TrainerError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise TrainerError(f"{path} is not a recipe: it should hold `key: value` lines")
    return content


def check_keys(path: Path, recipe: Iterable[str], known: Iterable[str]) -> None:
    """Raise `TrainerError` if a recipe has an unknown key."""
    known = set(known)
    for key in recipe:
        if key not in known:
            raise TrainerError(f"{path}: unknown setting {key!r}{did_you_mean(str(key), known)}")


def recipe_path(name: str) -> Path:
    """Return the path of a recipe given by path, or by name if it is one of the package."""
    path = Path(name)
    packaged = Path(str(resources.files("trainer") / "recipes" / f"{name}.yaml"))
    return packaged if not path.exists() and packaged.exists() else path


def resolve_recipe(argv: list[str]) -> Path | None:
    """Return the recipe of `--config`, and replace its name in `argv` by its path, as TRL's parser expects it."""
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


def _known_keys(algorithm: str) -> set[str]:
    ours = {item.name for kind in (RunArguments, ModelConfig) for item in fields(kind)}
    return ours | setting_names(algorithm) | {"env"}


def _packaged() -> str:
    folder = resources.files("trainer") / "recipes"
    return ", ".join(sorted(item.name for item in folder.iterdir() if item.name.endswith(".yaml")))

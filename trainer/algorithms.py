"""The algorithms that a policy is trained with, and TRL's settings of each."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeAlias

import trl
from trl import GRPOConfig, RLOOConfig

from trainer.errors import TrainerError
from trainer.recipe_files import last_value

TEMPLATE_KWARGS = "chat_template_kwargs"
"""The arguments of the chat template: a setting of TRL's RLOO and GRPO, which its DPO and SFT read from a column."""
TEMPLATE_HELP = "Arguments of the chat template, in training and evaluation, such as '{\"enable_thinking\": false}'."


@dataclass
class DPOConfig(trl.DPOConfig):  # type: ignore[misc]
    """TRL's DPOConfig with the arguments of the chat template."""

    _VALID_DICT_FIELDS = [*trl.DPOConfig._VALID_DICT_FIELDS, TEMPLATE_KWARGS]  # noqa: RUF012  # as TRL has it
    chat_template_kwargs: dict[str, Any] | str | None = field(default=None, metadata={"help": TEMPLATE_HELP})


@dataclass
class SFTConfig(trl.SFTConfig):  # type: ignore[misc]
    """TRL's SFTConfig with the arguments of the chat template."""

    _VALID_DICT_FIELDS = [*trl.SFTConfig._VALID_DICT_FIELDS, TEMPLATE_KWARGS]  # noqa: RUF012  # as TRL has it
    chat_template_kwargs: dict[str, Any] | str | None = field(default=None, metadata={"help": TEMPLATE_HELP})


OnlineConfig: TypeAlias = RLOOConfig | GRPOConfig
TrainingConfig: TypeAlias = RLOOConfig | GRPOConfig | DPOConfig | SFTConfig
CONFIG_CLASSES = {"rloo": RLOOConfig, "grpo": GRPOConfig, "dpo": DPOConfig, "sft": SFTConfig}
OFFLINE = ("dpo", "sft")
"""Those that learn from completions in a file, and generate none while they train."""
ONLINE = tuple(name for name in CONFIG_CLASSES if name not in OFFLINE)
DEFAULT = "rloo"


def chosen_algorithm(argv: Sequence[str], recipe: Mapping[str, Any]) -> str:
    """Return the algorithm of the last `--algorithm`, of the recipe, or the default. Raises `TrainerError`."""
    flag = last_value(argv, "--algorithm")
    name = str(recipe.get("algorithm", DEFAULT)) if flag is None else flag
    if name not in CONFIG_CLASSES:
        *others, last = CONFIG_CLASSES
        raise TrainerError(f"unknown --algorithm {name!r}; choose {', '.join(others)} or {last}")
    return name


def settings_for(algorithm: str, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe's settings for an algorithm: those in its section, such as `dpo: {…}`, take precedence.

    With a section, settings that only other algorithms have are left out. Raises `TrainerError`.
    """
    settings = {key: value for key, value in recipe.items() if key not in CONFIG_CLASSES}
    section = recipe.get(algorithm)
    if section is None:
        return settings
    if not isinstance(section, dict):
        raise TrainerError(f"the recipe's section {algorithm} is not a mapping: write `{algorithm}: {{key: value, …}}`")
    foreign = set().union(*map(setting_names, CONFIG_CLASSES)) - setting_names(algorithm)
    return {**{key: value for key, value in settings.items() if key not in foreign}, **section}


def check_algorithm(algorithm: str, argv: Iterable[str], settings: Iterable[str], recipe: Mapping[str, Any]) -> None:
    """Raise `TrainerError` for flags, and settings of a recipe, that only another algorithm has."""
    own = setting_names(algorithm)
    flags = {word.removeprefix("--").partition("=")[0] for word in argv if word.startswith("--")}
    foreign = {name: other for other in reversed(CONFIG_CLASSES) for name in sorted(setting_names(other) - own)}
    written_for = recipe.get("algorithm", DEFAULT)
    unread = [name for name in settings if name in foreign]
    if unread and algorithm not in recipe and algorithm != written_for:
        raise TrainerError(
            f"the recipe is one for {written_for} and has no section for {algorithm}, which has no "
            f"{', '.join(unread)}: add a section `{algorithm}: {{key: value, …}}` to a copy of the recipe"
        )
    for name, other in foreign.items():
        if name in flags or name in unread:
            raise TrainerError(
                f"{name} is a setting of {other}, and this run trains with {algorithm}: leave it out, or add "
                f"--algorithm {other}"
            )


def setting_names(algorithm: str) -> set[str]:
    """Return the names of TRL's settings of an algorithm."""
    return {item.name for item in fields(CONFIG_CLASSES[algorithm])}


def template_kwargs(args: TrainingConfig) -> dict[str, Any]:
    """Return the arguments of the chat template. Raises `TrainerError` for a text, which TRL has not parsed as JSON."""
    kwargs = args.chat_template_kwargs
    if isinstance(kwargs, str):
        raise TrainerError(
            f"--{TEMPLATE_KWARGS} {kwargs} is not a JSON object, such as '{{\"enable_thinking\": false}}'"
        )
    return dict(kwargs or {})

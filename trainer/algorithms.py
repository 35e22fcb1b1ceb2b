"""The algorithms that a policy is trained with, and TRL's settings of each."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeAlias

from trl import GRPOConfig, RLOOConfig

from trainer.errors import TrainerError

TrainingConfig: TypeAlias = RLOOConfig | GRPOConfig
CONFIG_CLASSES = {"rloo": RLOOConfig, "grpo": GRPOConfig}
DEFAULT = "rloo"


def chosen_algorithm(argv: Sequence[str], recipe: Mapping[str, Any]) -> str:
    """Return the algorithm of the last `--algorithm`, of the recipe, or the default. Raises `TrainerError`."""
    name = str(recipe.get("algorithm", DEFAULT))
    for index, word in enumerate(argv):
        flag, joined, value = word.partition("=")
        if flag == "--algorithm":
            name = value if joined else "".join(argv[index + 1 : index + 2])
    if name not in CONFIG_CLASSES:
        raise TrainerError(f"unknown --algorithm {name!r}; choose {' or '.join(CONFIG_CLASSES)}")
    return name


def check_algorithm(algorithm: str, argv: Iterable[str], recipe: Iterable[str]) -> None:
    """Refuse flags and keys of a recipe that only another algorithm has."""
    own = setting_names(algorithm)
    flags = {word.removeprefix("--").partition("=")[0] for word in argv if word.startswith("--")}
    for other in CONFIG_CLASSES:
        for name in sorted((flags | set(recipe)) & setting_names(other) - own):
            raise TrainerError(
                f"{name} is a setting of {other}, and this run trains with {algorithm}: leave it out, or add "
                f"--algorithm {other}"
            )


def setting_names(algorithm: str) -> set[str]:
    """Return the names of TRL's settings of an algorithm."""
    return {item.name for item in fields(CONFIG_CLASSES[algorithm])}

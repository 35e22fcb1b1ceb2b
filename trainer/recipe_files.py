"""Find and read a recipe: a YAML file with the settings of a run, given by its path or as one of the package."""

from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from shared.errors import did_you_mean
from trainer.errors import TrainerError


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


def last_value(argv: Sequence[str], flag: str) -> str | None:
    """Return the value of the last such flag, which may be empty, or None without the flag."""
    value = None
    for index, word in enumerate(argv):
        name, joined, rest = word.partition("=")
        if name == flag:
            value = rest if joined else "".join(argv[index + 1 : index + 2])
    return value


def without_config(argv: Sequence[str]) -> list[str]:
    """Return flags without `--config` and the path after it, which `resolve_recipe` has left there."""
    index = list(argv).index("--config")
    return [*argv[:index], *argv[index + 2 :]]


def _packaged() -> str:
    folder = resources.files("trainer") / "recipes"
    return ", ".join(sorted(item.name for item in folder.iterdir() if item.name.endswith(".yaml")))

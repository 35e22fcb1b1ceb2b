"""The settings of a run: our own beside TRL's, from the command line and one YAML file, the recipe."""

import os
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from trl import ModelConfig

from trainer.algorithms import (
    CONFIG_CLASSES,
    TrainingConfig,
    check_algorithm,
    chosen_algorithm,
    setting_names,
    settings_for,
)
from trainer.errors import TrainerError
from trainer.expectations import parse_bounds
from trainer.quantization import check_quantization
from trainer.recipe_files import check_keys, read_recipe, resolve_recipe, without_config
from trainer.run_arguments import RunArguments
from trainer.run_checks import check_completions, check_interpolation, check_on_hack, check_run
from trainer.settings_checks import check_model, check_training
from trainer.settings_parsing import TRAIN, parse_used, parser_of, unusable
from trainer.sharding import check_deepspeed_installed

Settings = tuple[RunArguments, TrainingConfig, ModelConfig]


def parse(argv: Sequence[str], prog: str = TRAIN) -> Settings:
    """Parse flags and the recipe named by `--config`; flags take precedence. Raises `TrainerError`."""
    kinds, flags, settings = _read(argv)
    run, args, model = parse_used(kinds, flags, settings, prog)
    run.expect, run.expect_gain = parse_bounds("expect", run.expect), parse_bounds("expect_gain", run.expect_gain)
    check_run(run, settings["algorithm"])
    check_model(model)
    check_quantization(model, training=prog == TRAIN)
    check_interpolation(run.interpolation, model, merge_lora=run.merge_lora)
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


def _known_keys(algorithm: str) -> set[str]:
    ours = {item.name for kind in (RunArguments, ModelConfig) for item in fields(kind)}
    return ours | setting_names(algorithm) | {"env"}

"""Parse flags and a recipe's settings with TRL's parser, without the recipe's settings that have no effect in a run."""

from argparse import ArgumentParser
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any, get_origin

from trl import TrlParser

from trainer import evaluation_options, workers
from trainer.display import log
from trainer.errors import TrainerError
from trainer.settings_checks import without_effect
from trainer.workers import HELP_FLAGS

TRAIN, EVALUATE = "reward-trainer train", "reward-trainer evaluate"
SPLIT_OPTIONS: Mapping[str, Callable[[ArgumentParser], None]] = {
    TRAIN: workers.add_options,
    EVALUATE: evaluation_options.add_options,
}
"""Adds the options of a command that are split off before its settings are parsed: for its help alone."""


def parse_used(kinds: Sequence[type], argv: Sequence[str], settings: Mapping[str, Any], prog: str) -> tuple[Any, ...]:
    """Return an object of each kind, dataclasses: those of our settings, of the algorithm's, and of the model's.

    A setting of the recipe that has no effect in this run is left out with a log line, because a flag cannot unset it.
    Raises `TrainerError`, also for a flag without an effect.
    """
    parsed = parse_all(kinds, argv, settings, prog)
    unused = without_effect(_changed(parsed), str(settings["algorithm"]))
    if of_recipe := sorted(unused.keys() & settings.keys()):
        for name in of_recipe:
            log(f"the recipe's {name} has no effect {unused[name]}, and is left out")
        others = {name: value for name, value in settings.items() if name not in of_recipe}
        parsed = parse_all(kinds, argv, others, prog)
        unused = without_effect(_changed(parsed), str(settings["algorithm"]))
    for name, reason in unused.items():
        raise TrainerError(f"--{name} has no effect {reason}: leave it out")
    return parsed


def parse_all(kinds: Sequence[type], argv: Sequence[str], settings: Mapping[str, Any], prog: str) -> tuple[Any, ...]:
    """Return an object of each kind from flags and the recipe's settings; flags take precedence."""
    try:
        parsed = parser_of(kinds, argv, settings, prog).parse_args_and_config([*argv], fail_with_unknown_args=True)
    except ValueError as error:
        raise unusable(error) from error
    run, args, *_ = parsed
    wrap_scalars(run, args)
    return tuple(parsed)


def parser_of(kinds: Sequence[type], argv: Sequence[str], settings: Mapping[str, Any], prog: str) -> TrlParser:
    """Return TRL's parser of these dataclasses with the recipe's settings as defaults."""
    parser = TrlParser(kinds, prog=prog)
    if prog in SPLIT_OPTIONS and not HELP_FLAGS.isdisjoint(argv):
        SPLIT_OPTIONS[prog](parser)
    parser.set_defaults_with_config(**{"logging_steps": 1, **settings})
    return parser


def unusable(reason: object) -> TrainerError:
    """Return the error for settings that TRL's parser refuses."""
    return TrainerError(f"these settings cannot be used: {' '.join(str(reason).split())}")


def _changed(parsed: Sequence[Any]) -> dict[str, Any]:
    """Return our settings and the model's that are not at their defaults."""
    run, _, model = parsed
    values = [(item, getattr(part, item.name)) for part in (run, model) for item in fields(part)]
    return {item.name: value for item, value in values if item.default is not MISSING and item.default != value}


def wrap_scalars(run: Any, args: Any) -> None:
    """Wrap a recipe's single value into a list where a list is expected, as the command line does."""
    for item in fields(run):
        if get_origin(item.type) is list:
            setattr(run, item.name, _as_list(getattr(run, item.name)))
    if getattr(args, "reward_weights", None) is not None:
        args.reward_weights = _as_list(args.reward_weights)


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]

"""`rewards.yaml`: which rewards are served under which names. Frozen and typed; unknown keys are errors."""

from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Self, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from reward_service.check_specs import CHECKS
from reward_service.errors import ConfigError
from reward_service.specs import CompositePart, CompositeSpec, Frozen, Gate, Prefixes, Spec, TextModelSpec
from shared.errors import did_you_mean
from shared.schemas import Name

END_OF_TURN = (
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|eot|>",
    "<end_of_turn>",
    "<turn|>",
    "<eos>",
    "</s>",
    "<|end|>",
    "<|return|>",
    "<|END_OF_TURN_TOKEN|>",
    "<｜end▁of▁sentence｜>",
)
"""End-of-turn markers of common tokenizers."""


class DialectOptions(BaseModel):
    """Options of a wire format."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    open: bool = False
    """Whether its routes need no API key: for clients that cannot send one, in a network that may be trusted."""
    end_of_turn: tuple[Annotated[str, Field(min_length=1)], ...] = END_OF_TURN
    """Markers removed from the end of a completion, in formats whose clients decode special tokens, too."""


class RewardsConfig(BaseModel):
    """The content of rewards.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rewards: dict[Name, Spec] = Field(min_length=1)
    default: list[str] = Field(default_factory=list)
    """Rewards of a request that names none. Default: the first reward."""
    dialects: dict[str, DialectOptions] | None = None
    """Wire formats to serve beside the native one, as a list or with their options. Default: all."""

    @field_validator("rewards", mode="before")
    @classmethod
    def _shorthand(cls, rewards: Any) -> Any:
        """Expand `name: "package.module:object"` to a function reward."""
        if not isinstance(rewards, Mapping):
            return rewards
        return {
            name: {"kind": "function", "object": spec} if isinstance(spec, str) else spec
            for name, spec in rewards.items()
        }

    @field_validator("dialects", mode="before")
    @classmethod
    def _options_or_names(cls, dialects: Any) -> Any:
        """Expand a list of names to a mapping, and an entry without options to the defaults."""
        if isinstance(dialects, list) and all(isinstance(name, str) for name in dialects):
            return {name: {} for name in dialects}
        if isinstance(dialects, Mapping):
            return {name: {} if options is None else options for name, options in dialects.items()}
        return dialects

    @model_validator(mode="after")
    def _aliases_are_unique(self) -> Self:
        names = set(self.rewards)
        for name, spec in self.rewards.items():
            for alias in spec.aliases:
                if alias in names:
                    raise ValueError(f"rewards.{name}: two rewards have the name {alias!r}")
                names.add(alias)
        return self

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        for name in self.default:
            self._check_name(name, "default")
        for name, spec in self.rewards.items():
            for part in sorted(spec.dependencies()) if isinstance(spec, CompositeSpec) else ():
                self._check_name(part, f"rewards.{name}")
        build_order(self)
        return self

    def _check_name(self, name: str, where: str) -> None:
        if name not in self.rewards:
            raise ValueError(
                f"{where} names {name!r}, which is not a reward of this file{did_you_mean(name, self.rewards)}"
            )

    def default_rewards(self) -> list[str]:
        """Return the names of the rewards that score a request which names none."""
        return self.default or [next(iter(self.rewards))]

    def subset(self, names: Sequence[str]) -> "RewardsConfig":
        """Return the configuration of these rewards and those that they are made of; of all without names.

        Raise `ConfigError` for an unknown name.
        """
        if not names:
            return self
        needed, pending = set[str](), list(names)
        while pending:
            name = pending.pop()
            if name not in self.rewards:
                hint = did_you_mean(name, self.rewards)
                raise ConfigError(f"there is no reward {name!r} (there are: {', '.join(self.rewards)}){hint}")
            spec = self.rewards[name]
            pending += sorted(spec.dependencies() - needed) if isinstance(spec, CompositeSpec) else []
            needed.add(name)
        rewards = {name: spec for name, spec in self.rewards.items() if name in needed}
        default = [name for name in self.default if name in needed] or [names[0]]
        return self.model_copy(update={"rewards": rewards, "default": default})

    def other_names(self) -> dict[str, list[str]]:
        """Return the rewards by each name that they have besides their own: their aliases, and their `model`."""
        others: dict[str, list[str]] = {}
        for name, spec in self.rewards.items():
            for other in {*spec.aliases, *([spec.model] if isinstance(spec, TextModelSpec) else [])}:
                others.setdefault(other, []).append(name)
        return others


Loc = tuple[int | str, ...]
SPECS: dict[str, type[Frozen]] = {spec.model_fields["kind"].default: spec for spec in get_args(get_args(Spec)[0])}


def build_order(config: RewardsConfig) -> list[str]:
    """Return the names in topological order: each reward after its dependencies. Raise `ValueError` on a cycle."""
    ordered: list[str] = []
    remaining = dict(config.rewards)
    while remaining:
        built = set(ordered)
        ready = [n for n, s in remaining.items() if not isinstance(s, CompositeSpec) or s.dependencies() <= built]
        if not ready:
            raise ValueError(f"these composites depend on each other: {', '.join(remaining)}")
        ordered += ready
        remaining = {name: spec for name, spec in remaining.items() if name not in ready}
    return ordered


def config_file(path: Path | None) -> Traversable:
    """Return the file of this path, by default the `rewards.yaml` of the package."""
    return path or resources.files("reward_service").joinpath("rewards.yaml")


def read_config(path: Path | None, names: Sequence[str] = ()) -> RewardsConfig:
    """Read `rewards.yaml`, by default the one of the package; of its rewards those of these names, or all.

    Raise `ConfigError` with one sentence.
    """
    try:
        content = yaml.load(config_file(path).read_text(encoding="utf-8"), Loader=UniqueKeyLoader)
    except OSError as cause:
        raise ConfigError(f"cannot read the configuration {path}: {cause.strerror}") from cause
    except (yaml.YAMLError, ValueError) as cause:  # ValueError: not UTF-8, or a date that does not exist
        raise ConfigError(f"{path} is not YAML: {' '.join(str(cause).split())}") from cause
    try:
        return RewardsConfig.model_validate(content).subset(names)
    except ValidationError as cause:
        raise ConfigError(f"{path or 'rewards.yaml'}: {error_sentence(cause)}") from cause


def check_dialects(names: Iterable[str], known: Iterable[str]) -> None:
    """Raise `ConfigError` for a name in `dialects` that is no wire format."""
    known = sorted(known)
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known)
            raise ConfigError(f"dialects: there is no wire format {name!r}{hint}; there are: {', '.join(known)}")


STRING_TAG, MERGE_TAG = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"


class UniqueKeyLoader(yaml.SafeLoader):
    """A YAML loader whose keys are texts, each at most once: plain YAML would drop the first of two rewards."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping. Raise a `YAMLError` if a key occurs twice in it."""
        node = super().compose_mapping_node(anchor)
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if duplicates := [key for key in keys if keys.count(key) > 1]:
            raise yaml.composer.ComposerError(None, None, f"duplicate key {duplicates[0]!r}", node.start_mark)
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != MERGE_TAG:
                key.tag = STRING_TAG  # a label called yes, no, on or 0 is a name, not a truth value or a number
        return node


def error_sentence(error: ValidationError) -> str:
    """Describe the most telling error in one sentence; for an unknown key, suggest the closest known one."""
    detail = most_telling_error(error)
    location = _location(detail["loc"])
    if detail["type"] == "extra_forbidden":
        return f"unknown key {location}{did_you_mean(str(detail['loc'][-1]), known_keys(detail['loc']))}"
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"].startswith("union_tag"):
        message = _choice(detail["ctx"])
    if detail["type"] == "string_type":
        message = "a text is needed here: write it in quotes, YAML reads yes, no, on, off, null and numbers otherwise"
    return f"{location}: {message}" if location else message


def _choice(context: Mapping[str, Any]) -> str:
    """Describe a key that chooses between kinds or checks, and is missing or unknown."""
    key = context["discriminator"].strip("'")
    if "tag" not in context:
        return f"`{key}` is missing"
    known = [name.strip("'") for name in context["expected_tags"].split(", ")]
    return f"there is no {key} {context['tag']!r}{did_you_mean(context['tag'], known)}; there are: {', '.join(known)}"


def _location(loc: Loc) -> str:
    """Return where a key stands in the file: without the reward's kind and the check, by which specs were chosen."""
    match loc:
        case ("rewards", name, kind, "checks", int(index), check, *rest) if kind in SPECS and check in CHECKS:
            steps = ["rewards", name, "checks", index, *rest]
        case ("rewards", name, kind, *rest) if kind in SPECS:
            steps = ["rewards", name, *rest]
        case _:
            steps = [*loc]
    return ".".join(map(str, steps))


def most_telling_error(error: ValidationError) -> ErrorDetails:
    """Return the error to report: an unknown key, which explains why another one is missing; else the deepest one."""
    errors = error.errors(include_url=False, include_input=False)
    return max(errors, key=lambda detail: (detail["type"] == "extra_forbidden", len(detail["loc"])))


def known_keys(loc: Loc) -> Iterable[str]:
    """Return the keys that rewards.yaml allows beside the one at `loc`."""
    match loc:
        case ("rewards", _, "composite", "parts", _, _):
            return CompositePart.model_fields
        case ("rewards", _, "composite", "gates", _, _):
            return Gate.model_fields
        case ("rewards", _, "rule", "checks", _, check, _):
            return [field.alias or name for name, field in CHECKS[str(check)].model_fields.items()]
        case ("rewards", _, "similarity", "prefixes", _):
            return Prefixes.model_fields
        case ("rewards", _, kind, _):
            return SPECS[str(kind)].model_fields
        case ("dialects", _, _):
            return DialectOptions.model_fields
        case _:
            return RewardsConfig.model_fields

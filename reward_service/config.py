"""`rewards.yaml`: which rewards are served, under which names. Frozen, typed, and a misspelt key is refused."""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from reward_service.errors import ConfigError
from shared.errors import did_you_mean
from shared.schemas import Name

BackendName = Literal["torch", "openvino", "onnxruntime"]
DType = Literal["float32", "bfloat16", "int8"]
Finite = Annotated[float, Field(allow_inf_nan=False)]
AnyBackend = Annotated[BackendName | None, BeforeValidator(lambda value: None if value == "auto" else value)]
"""`auto`, which is None, stands for the fastest whose scores are right."""


def _in_order(ends: tuple[float, float]) -> tuple[float, float]:
    if not ends[0] <= ends[1]:
        raise ValueError(f"the lower end comes first, and neither is NaN: not [{ends[0]:g}, {ends[1]:g}]")
    return ends


ScoreRange = Annotated[tuple[float, float], AfterValidator(_in_order)]
"""Lowest and highest; one of them may be infinite, written `-.inf` or `.inf`."""


class Frozen(BaseModel):
    """Configuration cannot change after it is read, and holds no key we do not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: str = ""


class RuleSpec(Frozen):
    """A Python function over text, one of those in `reward_service.rewards.rules`."""

    kind: Literal["rule"] = "rule"
    function: str


class ModelRewardSpec(Frozen):
    """What classifier and regressor have in common."""

    model: str
    """A folder, a hub id, or `embedded:<name>`."""
    input: Literal["completion", "chat"] = "completion"
    """What the model reads: the completion's text, or prompt and completion in the model's own chat template."""
    last_chars: int | None = Field(None, gt=0)
    """Only so many characters from the end of the text are read."""
    max_tokens: int | None = Field(None, gt=2)
    """Upper bound on the tokens read; left out, what the model can read."""
    backend: AnyBackend = None
    """What computes; left out or `auto`, the service's setting."""
    dtype: DType | None = None
    """In which precision; left out, the service's setting."""
    max_batch_tokens: int | None = Field(None, gt=0)
    """Upper bound on rows × longest row in one forward pass; left out, what was measured to be fastest."""


class ClassifierSpec(ModelRewardSpec):
    """A sequence-classification model: reward = factor of the winning label × its probability."""

    kind: Literal["classifier"] = "classifier"
    labels: dict[str, Finite]
    """Factor for each label; `*` stands for any label not named."""


class RegressorSpec(ModelRewardSpec):
    """A model with one output: reward = scale × output + offset."""

    kind: Literal["regressor"] = "regressor"
    scale: Finite = 1.0
    offset: Finite = 0.0


class CompositePart(Frozen):
    """One summand of a composite."""

    weight: Finite = 1.0
    clip: ScoreRange | None = None
    """The part's score is brought into this range before it is weighted."""


class Gate(Frozen):
    """A condition on another reward: where it does not hold, the composite gives `otherwise`."""

    reward: str
    at_least: Finite
    otherwise: Finite


class CompositeSpec(Frozen):
    """A weighted sum of other rewards, behind gates, clipped."""

    kind: Literal["composite"] = "composite"
    parts: dict[str, CompositePart] = Field(min_length=1)
    gates: list[Gate] = Field(default_factory=list)
    clip: ScoreRange | None = None

    def dependencies(self) -> set[str]:
        """Name the rewards it is made of."""
        return {*self.parts, *(gate.reward for gate in self.gates)}


class FunctionSpec(Frozen):
    """A reward function with TRL's signature, named `package.module:object`."""

    kind: Literal["function"] = "function"
    object: str = Field(pattern=r"^[\w.]+:[\w.]+$")
    range: ScoreRange | None = None


Spec = Annotated[RuleSpec | ClassifierSpec | RegressorSpec | CompositeSpec | FunctionSpec, Field(discriminator="kind")]


class RewardsConfig(BaseModel):
    """The whole file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rewards: dict[Name, Spec] = Field(min_length=1)
    default: list[str] = Field(default_factory=list)
    """The rewards that score a request which names none; left out, the first."""

    @field_validator("rewards", mode="before")
    @classmethod
    def _shorthand(cls, rewards: Any) -> Any:
        """Let `name: "package.module:object"` stand for a function reward."""
        if not isinstance(rewards, Mapping):
            return rewards
        return {
            name: {"kind": "function", "object": spec} if isinstance(spec, str) else spec
            for name, spec in rewards.items()
        }

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        for name in self.default:
            self._known(name, "default")
        for name, spec in self.rewards.items():
            for part in sorted(spec.dependencies()) if isinstance(spec, CompositeSpec) else ():
                self._known(part, f"rewards.{name}")
        build_order(self)
        return self

    def _known(self, name: str, where: str) -> None:
        if name not in self.rewards:
            raise ValueError(f"{where} names {name!r}, which is no reward here{did_you_mean(name, self.rewards)}")

    def default_rewards(self) -> list[str]:
        """Name the rewards that score a request which names none."""
        return self.default or [next(iter(self.rewards))]


def build_order(config: RewardsConfig) -> list[str]:
    """Name the rewards so that each comes after those it is made of. Raises ValueError on a circle."""
    done: list[str] = []
    left = dict(config.rewards)
    while left:
        free = [n for n, s in left.items() if not isinstance(s, CompositeSpec) or s.dependencies() <= set(done)]
        if not free:
            raise ValueError(f"these composites are made of each other: {', '.join(left)}")
        done += free
        left = {name: spec for name, spec in left.items() if name not in free}
    return done


def read_config(path: Path | None) -> RewardsConfig:
    """Read `rewards.yaml`, or the one that comes with the package. Raises `ConfigError` in one sentence."""
    source = path or resources.files("reward_service").joinpath("rewards.yaml")
    try:
        content = yaml.load(source.read_text(encoding="utf-8"), Loader=UniqueKeyLoader)
    except OSError as cause:
        raise ConfigError(f"cannot read the configuration {path}: {cause.strerror}") from cause
    except (yaml.YAMLError, ValueError) as cause:  # a text of other bytes, a date that there is not
        raise ConfigError(f"{path} is not YAML: {' '.join(str(cause).split())}") from cause
    try:
        return RewardsConfig.model_validate(content)
    except ValidationError as cause:
        raise ConfigError(f"{path or 'rewards.yaml'}: {error_sentence(cause)}") from cause


class UniqueKeyLoader(yaml.SafeLoader):
    """YAML as it is read anywhere, but a key that comes twice is refused: of two rewards one would be dropped."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Give a mapping as it is written. Raises a `YAMLError` for a key that was there already."""
        node = super().compose_mapping_node(anchor)
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise yaml.composer.ComposerError(None, None, f"{twice[0]!r} is there twice", node.start_mark)
        return node


def error_sentence(error: ValidationError) -> str:
    """Say what is wrong first, and for a misspelt key which one was meant."""
    found = most_telling_error(error)
    where = ".".join(str(step) for step in found["loc"])
    if found["type"] == "extra_forbidden":
        return f"unknown key {where}{did_you_mean(str(found['loc'][-1]), _fields())}"
    message = found["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def most_telling_error(error: ValidationError) -> ErrorDetails:
    """Give the error to tell of: a misspelt key, which is why another one is missing; else the one deepest inside."""
    errors = error.errors(include_url=False, include_input=False)
    return max(errors, key=lambda found: (found["type"] == "extra_forbidden", len(found["loc"])))


def _fields() -> set[str]:
    models = (RuleSpec, ClassifierSpec, RegressorSpec, CompositeSpec, FunctionSpec, CompositePart, Gate, RewardsConfig)
    return {field for model in models for field in model.model_fields}

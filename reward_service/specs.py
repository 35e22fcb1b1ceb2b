"""The rewards of `rewards.yaml`, one spec for each kind. Frozen and typed; unknown keys are errors."""

from importlib.util import find_spec
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from reward_service.check_specs import AnyCheck, Finite

BackendName = Literal["torch", "openvino", "onnxruntime"]
DType = Literal["float32", "bfloat16", "float16", "int8"]
Pooling = Literal["mean", "cls", "last"]
AnyBackend = Annotated[BackendName | None, BeforeValidator(lambda value: None if value == "auto" else value)]
"""`auto`, which is None, means the fastest backend whose scores are close enough to float32 torch's."""


def _check_ends(ends: tuple[float, float]) -> tuple[float, float]:
    if not ends[0] <= ends[1]:
        raise ValueError(f"the lower end comes first and neither is NaN, got [{ends[0]:g}, {ends[1]:g}]")
    return ends


ScoreRange = Annotated[tuple[float, float], AfterValidator(_check_ends)]
"""Lowest and highest score; an infinite end is written `-.inf` or `.inf`."""


class Frozen(BaseModel):
    """Base of the specs: immutable, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: str = ""


class NamedSpec(Frozen):
    """Keys of every reward."""

    aliases: tuple[str, ...] = ()
    """Further names of the reward in the `model` field of other servers' formats."""


class RuleSpec(NamedSpec):
    """Checks of the completion's text, whose points are added."""

    kind: Literal["rule"] = "rule"
    checks: list[AnyCheck] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [check.name or check.check for check in self.checks]
        if repeated := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"two checks are called {repeated[0]!r}; give each a name of its own, such as name: first")
        return self


class MathSpec(NamedSpec):
    """Whether the completion's answer to a mathematical question equals that of a column, by math-verify."""

    kind: Literal["math"] = "math"
    column: str = Field("answer", min_length=1)
    after: str | None = Field(None, min_length=1)
    """Read only what follows the last occurrence of this tag; nothing where the tag is missing."""
    points: Finite = 1.0
    otherwise: Finite = 0.0
    timeout_s: float = Field(10.0, gt=0, allow_inf_nan=False)
    """Longest time of one completion; then its worker process is ended and started again."""
    workers: int = Field(2, ge=1, le=256)

    @model_validator(mode="after")
    def _is_installed(self) -> Self:
        if find_spec("math_verify") is None:
            raise ValueError("kind: math needs math-verify: pip install 'remote-rewards[math]'")
        return self


class TextModelSpec(NamedSpec):
    """Keys of every reward that a model computes."""

    model: str
    """A folder, a hub id, or `embedded:<name>`."""
    turns: Literal["all", "last"] = "all"
    """The assistant turns of a completion that are read."""
    after: str | None = Field(None, min_length=1)
    """Read only what follows the last occurrence of this tag in the completion, such as `</think>`."""
    last_chars: int | None = Field(None, gt=0)
    """Truncate the completion to this many characters from its end."""
    max_tokens: int | None = Field(None, gt=2)
    """Truncate the input to this many tokens. Default: the model's maximum."""
    backend: AnyBackend = None
    """Default, and with `auto`: the service's setting."""
    dtype: DType | None = None
    """Default: the service's setting."""
    max_batch_tokens: int | None = Field(None, gt=0)
    """Upper bound on rows × longest row of one forward pass. Default: the fastest that was measured."""


class ModelRewardSpec(TextModelSpec):
    """Keys of both classifier and regressor."""

    input: Literal["completion", "chat", "text", "pair"] = "completion"
    """The model's input: the completion; or prompt and completion in the model's chat template, as one text, or as a
    sentence pair."""
    end: bool = False
    """With `input: text`, append the tokenizer's end token, as TRL's RewardTrainer does to standard data."""
    truncate: Literal["prompt", "left", "right", "refuse"] | None = None
    """What gives way where the input is too long. Default: the prompt where it is read, else the tokenizer's side."""
    system: Literal["keep", "fold", "drop"] = "keep"
    """With `input: chat`, what becomes of system turns; `fold` puts them into the user turn that follows."""
    template_args: dict[str, Any] = Field(default_factory=dict)
    """With `input: chat`, arguments of the chat template, such as `enable_thinking: false`."""

    @model_validator(mode="after")
    def _keys_fit_input(self) -> Self:
        if self.end and self.input != "text":
            raise ValueError("end applies to input: text alone; leave it out")
        if self.input == "chat" and self.turns != "all":
            raise ValueError("turns does not apply to input: chat, which reads the whole conversation; leave it out")
        if self.input != "chat" and (self.template_args or self.system != "keep"):
            raise ValueError("template_args and system apply to input: chat alone; leave them out")
        if self.truncate == "prompt" and self.input == "completion":
            raise ValueError("truncate: prompt needs an input that reads the prompt: chat, text or pair")
        return self


class ClassifierSpec(ModelRewardSpec):
    """A sequence-classification model: factors of its labels times their probabilities or logits."""

    kind: Literal["classifier"] = "classifier"
    labels: dict[str, Finite] = Field(min_length=1)
    """Factor of each label; `*` is the factor of all labels not named."""
    value: Literal["winner", "expected", "logit"] = "winner"
    """`winner`: the winning label's factor × its probability; `expected`: the sum of factor × probability over all
    labels; `logit`: the sum of factor × logit."""


class RegressorSpec(ModelRewardSpec):
    """A model whose outputs are scores: score = scale × output + offset."""

    kind: Literal["regressor"] = "regressor"
    scale: Finite = 1.0
    offset: Finite = 0.0
    weights: dict[str, Finite] = Field(default_factory=dict)
    """Weight of each output by its label, for a model with several: the output is their weighted sum."""


class Prefixes(Frozen):
    """What precedes each of the two texts that are compared."""

    completion: str = ""
    to: str = ""


class SimilaritySpec(TextModelSpec):
    """The cosine of two embeddings: of the completion, and of the prompt or a column."""

    kind: Literal["similarity"] = "similarity"
    to: str = Field("prompt", min_length=1)
    """What the completion is compared with: `prompt`, of a conversation its last user turn, or the name of a column."""
    pooling: Pooling | None = None
    """What becomes the embedding: the mean of all tokens', the first token's or the last one's. Default: as the model's
    folder says in the files of sentence-transformers."""
    prefixes: Prefixes | None = None
    """Default: the prompts that the model's folder names."""
    truncate: Literal["left", "right", "refuse"] | None = None
    """What gives way where a text is too long. Default: the tokenizer's side."""


class CompositePart(Frozen):
    """One term of a composite's sum."""

    weight: Finite = 1.0
    clip: ScoreRange | None = None
    """Clip the part's score to this range before it is weighted."""


class Gate(Frozen):
    """A condition on another reward: if it does not hold, the composite's score is `otherwise`."""

    reward: str
    at_least: Finite
    otherwise: Finite


class CompositeSpec(NamedSpec):
    """A weighted sum of other rewards, with gates, clipped."""

    kind: Literal["composite"] = "composite"
    parts: dict[str, CompositePart] = Field(min_length=1)
    gates: list[Gate] = Field(default_factory=list)
    clip: ScoreRange | None = None

    def dependencies(self) -> set[str]:
        """Return the names of the rewards that it combines."""
        return {*self.parts, *(gate.reward for gate in self.gates)}


class FunctionSpec(NamedSpec):
    """A reward function with TRL's signature, named `package.module:object`."""

    kind: Literal["function"] = "function"
    object: str = Field(pattern=r"^[\w.]+:[\w.]+$")
    range: ScoreRange | None = None
    """Lowest and highest score; any other score is an error of its item."""
    scope: Literal["group", "batch"] = "batch"
    """What a client must not cut a call into: the completions of one prompt, or the whole call."""
    rows: Literal["independent"] | None = None
    """Each score depends on its own row alone: calls may be cut anywhere, and one bad row costs only itself."""
    timeout_s: float = Field(60.0, gt=0, allow_inf_nan=False)
    """Longest time of one call; then its worker process is ended and started again."""
    workers: int = Field(2, ge=1, le=256)
    """Largest number of worker processes; more than one are started when calls overlap."""
    in_process: bool = False
    """Call it on threads of the service, where nothing can end a call that does not return."""
    columns: list[str] | None = None
    """Names of the columns that it reads. Default: those in its signature and source."""

    @model_validator(mode="after")
    def _one_scope(self) -> Self:
        if self.rows is not None and "scope" in self.model_fields_set:
            raise ValueError("rows: independent leaves nothing for scope to say: delete one of the two")
        return self


Spec = Annotated[
    RuleSpec | MathSpec | ClassifierSpec | RegressorSpec | SimilaritySpec | CompositeSpec | FunctionSpec,
    Field(discriminator="kind"),
]

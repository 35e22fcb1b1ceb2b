"""The wire: what `POST /v1/score` and `GET /v1/rewards` take and give.

Columns, as TRL passes them: `completions[i]`, `prompts[i]` and every `columns[name][i]` belong together, and
`scores[i]` belongs to them. A score that could not be made is null with its reason in `errors`, never a number.
"""

from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StrictBool, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

SERVICE: Final = "remote-rewards"
"""What `GET /v1/rewards` calls itself; a client that reads anything else is talking to something else."""

SCORE_PATH: Final = "/v1/score"
REWARDS_PATH: Final = "/v1/rewards"
LIVE_PATH: Final = "/health/live"
READY_PATH: Final = "/health/ready"
HEALTH_PATH: Final = "/health"
METRICS_PATH: Final = "/metrics"
RELOAD_PATH: Final = "/admin/reload"

JSON: Final = "application/json"
PROBLEM_JSON: Final = "application/problem+json"

REQUEST_ID_HEADER: Final = "X-Request-Id"
TIMEOUT_HEADER: Final = "X-Request-Timeout-Ms"
"""The caller's remaining time in milliseconds: relative, so that no two clocks need agree."""

NAME_PATTERN: Final = r"^[a-z0-9_.-]{1,64}$"
"""What a reward may be called."""

DEFAULT_PORT: Final = 8088

Name = Annotated[str, Field(pattern=NAME_PATTERN)]


class Wire(BaseModel):
    """What travels. The sentence under a field is its description in the API's document."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class ContentPart(Wire):
    """A piece of a message. One without text, such as a picture, adds nothing to what is read."""

    model_config = ConfigDict(extra="allow")

    text: str | None = None


class Message(Wire):
    """One turn of a chat. A tool call has no content."""

    model_config = ConfigDict(extra="allow")

    role: str
    content: str | list[ContentPart] | None = None


Text = str | Annotated[list[Message], Field(fail_fast=True)]
"""A completion or a prompt: a string, or a list of chat messages."""
Texts = Annotated[list[Text], Field(fail_fast=True)]
"""The first that is wrong is told of: collecting a million errors would take seconds."""


COLUMNS = {"type": "object", "additionalProperties": {"type": "array", "items": {}}}


class ScoreRequest(Wire):
    """Texts to score, as columns of one length."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"additionalProperties": False})

    completions: Texts
    """What is scored: each a string or a list of chat messages."""
    prompts: Texts | None = None
    """What was asked, one a completion; needed by rewards that read it."""
    columns: Annotated[dict[str, Any], WithJsonSchema(COLUMNS)] = Field(default_factory=dict)
    """Further columns by name, handed to function rewards."""
    rewards: Annotated[list[str], Field(fail_fast=True)] | None = None
    """Names of the rewards to score with; left out, the configuration's `default`."""
    details: StrictBool = False
    """Whether to give the parts each score is made of."""

    @model_validator(mode="after")
    def _nothing_else(self) -> Self:
        for name in self.__pydantic_extra__ or {}:
            raise PydanticCustomError("extra_forbidden", "there is no such field", {"name": name})
        return self

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        lists = {f"columns.{name}": values for name, values in self.columns.items()}
        if self.prompts is not None:
            lists["prompts"] = self.prompts
        for name, values in lists.items():
            if not isinstance(values, list):
                raise ValueError(f"{name} is not a list")
            if len(values) != len(self.completions):
                raise ValueError(f"{name} has {len(values)} items, completions has {len(self.completions)}")
        return self


class ItemError(Wire):
    """Why one item has no score."""

    code: str
    message: str


LARGEST = 1e18
"""No score is further from zero: a policy learns in 32-bit floats, which hold no square of more."""
Score = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=-LARGEST, le=LARGEST)]
"""A number, finite, and written as one: not as a word and not as a truth value."""


class RewardScores(Wire):
    """One reward's answer to a request; every list is in the order of the request."""

    scores: list[Score | None]
    """One a completion; null where there is none."""
    revision: str
    """What made these scores: weights, tokenizer, engine, labels and mapping."""
    errors: dict[str, ItemError] = Field(default_factory=dict)
    """By index, as a string: exactly the items whose score is null."""
    truncated: list[int] = Field(default_factory=list)
    """Indices of the texts of which the reward saw only a part."""
    details: list[dict[str, Any] | None] | None = None

    @model_validator(mode="after")
    def _a_null_has_a_reason(self) -> Self:
        nulls = {str(index) for index, score in enumerate(self.scores) if score is None}
        if nulls != set(self.errors):
            raise ValueError("errors must name exactly the items without a score")
        return self


class Timing(Wire):
    """Where the time of a request went, in milliseconds."""

    queue_ms: float
    compute_ms: float


class ScoreResponse(Wire):
    """Scores by reward name."""

    rewards: dict[str, RewardScores]
    request_id: str
    timing: Timing


class EngineInfo(Wire):
    """What computes a model, and how it was found to do: the revision covers it."""

    backend: str
    dtype: str
    deterministic: bool = False
    """Whether a score does not depend, to the bit, on what else was asked at the same time."""
    texts_per_s: float | None = None
    """Measured when it was chosen; null where the configuration left no choice."""
    error: float | None = None
    """99th percentile of the distance from float32 torch: in probability, or as a share of a regressor's range."""


class RewardInfo(Wire):
    """What a reward is, and exactly which weights, tokenizer, labels and mapping it scores with."""

    name: Name
    kind: str
    description: str
    revision: str
    range: tuple[float, float] | None = None
    """Lowest and highest score possible; null where it is not known."""
    max_tokens: int | None = None
    """Tokens the model sees of a text; null where the reward reads all of it."""
    engine: EngineInfo | None = None
    """What computes the model; null where there is none."""
    parts: list[str] = Field(default_factory=list)
    """The rewards that a composite is made of."""


class Limits(Wire):
    """What one request may hold, and what may wait."""

    max_request_texts: int = Field(gt=0)
    max_body_bytes: int = Field(gt=0)
    max_queue_texts: int = Field(gt=0)


class ServiceInfo(Wire):
    """The answer of `GET /v1/rewards`."""

    service: Literal["remote-rewards"] = SERVICE
    version: str
    rewards: list[RewardInfo]
    default: list[str]
    limits: Limits


class Problem(Wire):
    """An error, as RFC 9457 lays it out, sent as `application/problem+json`."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    retryable: bool


def is_finite(score: float | None) -> bool:
    """Tell whether a score is a number that a policy may learn from."""
    return score is not None and abs(score) <= LARGEST

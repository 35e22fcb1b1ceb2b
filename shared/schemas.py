"""The wire format: paths, headers, and the bodies of `POST /v1/score` and `GET /v1/rewards`.

Requests are columns, as TRL passes them: `completions[i]`, `prompts[i]` and every `columns[name][i]` belong together,
and `scores[i]` is their score. A score that could not be computed is null with a reason in `errors`, never a number.
Docstrings of models and fields are the descriptions in the OpenAPI document.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StrictBool, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

SERVICE: Final = "remote-rewards"
"""The `service` field of `GET /v1/rewards`, by which a client recognises a reward service."""

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
"""The caller's remaining time in milliseconds: relative, so that clocks need not agree."""

REVISION_HEADER: Final = "X-Reward-Revision"
"""Pins a request: `<reward>=<revision>`, separated by commas. Another revision answers 412 and scores nothing."""
OTHER_REVISION: Final = "other_revision"
"""The code of that answer."""

INSTANCE_HEADER: Final = "X-Reward-Instance"
"""Which process has responded: by it a client tells the replicas behind one URL apart."""

NAME_PATTERN: Final = r"^[a-z0-9_.-]{1,64}$"
"""Valid reward names."""
PINNABLE: Final = re.compile(r"[!-+\--~]+")
"""Revisions that can be pinned: visible ASCII without a comma."""

DEFAULT_PORT: Final = 8088

MAX_ABS_SCORE: Final = 1e18
"""Largest magnitude of a score: a policy learns in float32, which cannot represent the square of a larger number."""

COLUMNS_SCHEMA: Final = {"type": "object", "additionalProperties": {"type": "array", "items": {}}}
"""The JSON schema of `columns`; pydantic validates the lengths alone, since values may be anything."""

Name = Annotated[str, Field(pattern=NAME_PATTERN)]


class Wire(BaseModel):
    """Base of all bodies."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class ContentPart(Wire):
    """A part of a message's content. One without text, such as an image, is skipped; models do not score its item."""

    model_config = ConfigDict(extra="allow")

    text: str | None = None


class Message(Wire):
    """A chat message. The content is null for a tool call."""

    model_config = ConfigDict(extra="allow")

    role: str
    content: str | list[ContentPart] | None = None


Text = str | Annotated[list[Message], Field(fail_fast=True)]
"""A completion or a prompt: a string, or a list of chat messages."""
Texts = Annotated[list[Text], Field(fail_fast=True)]
"""Validation stops at the first invalid text: collecting a million errors would take seconds."""


class ScoreRequest(Wire):
    """Completions to score, as columns of equal length."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"additionalProperties": False})

    completions: Texts
    """The completions to score: strings or lists of chat messages."""
    prompts: Texts | None = None
    """One prompt per completion; required by rewards that read the prompt."""
    columns: Annotated[dict[str, Any], WithJsonSchema(COLUMNS_SCHEMA)] = Field(default_factory=dict)
    """Further columns by name, one value per completion, for the rewards that read them."""
    trainer_state: dict[str, Any] | None = None
    """Plain fields of TRL's trainer state, such as `global_step`; passed to function rewards as an object."""
    rewards: Annotated[list[str], Field(fail_fast=True)] | None = None
    """Names of the rewards to score with. Defaults to the configuration's `default`."""
    details: StrictBool = False
    """Whether to return the parts of each score."""

    @model_validator(mode="after")
    def _check_no_extra_fields(self) -> Self:
        for name in self.__pydantic_extra__ or {}:
            raise PydanticCustomError("extra_forbidden", "unknown field", {"name": name})
        return self

    @model_validator(mode="after")
    def _check_equal_lengths(self) -> Self:
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
    """Why an item has no score."""

    code: str
    message: str


Score = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=-MAX_ABS_SCORE, le=MAX_ABS_SCORE)]
"""A finite JSON number: no string, no boolean."""


class RewardScores(Wire):
    """The scores of one reward. Every list is in the order of the request."""

    scores: list[Score | None]
    """One score per completion; null if it could not be computed."""
    revision: str
    """Identifies what computed the scores: weights, tokenizer, engine, labels and mapping."""
    errors: dict[str, ItemError] = Field(default_factory=dict)
    """Errors by item index, as a string: exactly one for each null score."""
    truncated: list[int] = Field(default_factory=list)
    """Indices of the items of which the reward read only a part."""
    overlong: list[int] = Field(default_factory=list)
    """Indices of the truncated items whose completion is longer than the model reads."""
    details: list[dict[str, Any] | None] | None = None
    """The parts of each score, if the request asked for them."""
    metrics: dict[str, FiniteFloat] = Field(default_factory=dict)
    """Means of the numbers that a function logged with TRL's `log_metric`."""
    extra: dict[str, list[Any]] = Field(default_factory=dict)
    """Columns that a function logged with TRL's `log_extra`, one value per completion."""

    @model_validator(mode="after")
    def _check_nulls_have_errors(self) -> Self:
        nulls = {str(index) for index, score in enumerate(self.scores) if score is None}
        if nulls != set(self.errors):
            raise ValueError("errors must name exactly the items without a score")
        return self


class Timing(Wire):
    """Queueing and computing time of a request, in milliseconds."""

    queue_ms: float
    compute_ms: float


class ScoreResponse(Wire):
    """The scores of a request, by reward name."""

    rewards: dict[str, RewardScores]
    request_id: str
    timing: Timing


class EngineInfo(Wire):
    """The inference engine of a model, and its benchmark. The revision covers it."""

    backend: str
    dtype: str
    deterministic: bool = False
    """Whether a score is bitwise independent of what else is in its batch."""
    batched: bool = True
    """Whether texts are computed in batches; false for a model whose scores would depend on the rest of a batch."""
    texts_per_s: float | None = None
    """Measured throughput; null if the configuration names the engine."""
    error: float | None = None
    """99th percentile of the deviation from float32 torch, in probability, cosine, or share of a regressor's range."""


Scope = Literal["completion", "group", "batch"]
"""What a score depends on: its completion alone, all completions of its prompt (adjacent), or the whole call."""


class RewardInfo(Wire):
    """A reward: its kind, limits, and the revision of its weights, tokenizer, labels and mapping."""

    name: Name
    kind: str
    description: str
    revision: str
    range: tuple[float, float] | None = None
    """Lowest and highest possible score; null if unknown."""
    max_tokens: int | None = None
    """Maximum number of tokens that the model reads of a text; null if the reward reads all of it."""
    engine: EngineInfo | None = None
    """The engine that computes the model; null for a reward without a model."""
    parts: list[str] = Field(default_factory=list)
    """Names of the rewards that a composite combines."""
    columns: list[str] | None = None
    """Columns that the reward reads, TRL's `completion_ids` and `trainer_state` included; null if that is unknown."""
    reads_prompts: bool = True
    """Whether the reward reads the prompts."""
    scope: Scope = "completion"
    """What a call must not be cut into: a reward may compare the completions of a group, or of the whole call."""
    labels: list[str] = Field(default_factory=list)
    """Labels of a model's outputs, in their order; empty for a reward without a model."""
    activation: Literal["softmax", "sigmoid"] | None = None
    """What turns a model's outputs into probabilities; null if they are none, or if there is no model."""


class Limits(Wire):
    """Limits of a request, and of the queue."""

    max_request_texts: int = Field(gt=0)
    max_body_bytes: int = Field(gt=0)
    max_queue_texts: int = Field(gt=0)
    calls: int | None = Field(None, gt=0)
    """Requests that one client may have in flight to one replica; null for the client's default."""
    spread: int = Field(1, gt=0)
    """Number of replicas that the service's address stands for: a client cuts a large call into so many requests."""

    def halved(self, *, max_texts: int) -> Self:
        """Return limits under which a request of `max_texts` texts, or of `max_body_bytes`, is split in two."""
        return self.model_copy(
            update={"max_request_texts": max(1, max_texts // 2), "max_body_bytes": max(1, self.max_body_bytes // 2)}
        )

    def min(self, other: Self) -> Self:
        """Return the lower limits of a request of the two."""
        return self.model_copy(
            update={
                "max_request_texts": min(self.max_request_texts, other.max_request_texts),
                "max_body_bytes": min(self.max_body_bytes, other.max_body_bytes),
            }
        )


class ServiceInfo(Wire):
    """The response of `GET /v1/rewards`."""

    service: Literal["remote-rewards"] = SERVICE
    version: str
    rewards: list[RewardInfo]
    default: list[str]
    dialects: list[str] = Field(default_factory=list)
    """Wire formats that are served beside the native one."""
    limits: Limits

    def revisions(self) -> dict[str, str]:
        """Return the revision of each reward."""
        return {reward.name: reward.revision for reward in self.rewards}


class Problem(Wire):
    """An RFC 9457 problem document, sent as `application/problem+json`."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    retryable: bool


def format_pins(revisions: Mapping[str, str]) -> str:
    """Return the value of `REVISION_HEADER`, without revisions that a header cannot carry."""
    return ", ".join(f"{name}={revision}" for name, revision in revisions.items() if PINNABLE.fullmatch(revision))


def parse_pins(header: str) -> dict[str, str]:
    """Return the pinned revision of each reward. Raise `ValueError` if the header is malformed."""
    pairs = [pin.strip().partition("=") for pin in header.split(",") if pin.strip()]
    if malformed := [name for name, _, revision in pairs if not (name and revision)]:
        raise ValueError(f"{malformed[0][:80]!r} is no pin")
    return {name: revision for name, _, revision in pairs}


def is_valid_score(score: float | None) -> bool:
    """Return whether a score is a finite number of at most `MAX_ABS_SCORE`."""
    return score is not None and abs(score) <= MAX_ABS_SCORE


def strictest_scope(scopes: Iterable[Scope]) -> Scope:
    """Return the scope that allows the fewest cuts; `completion` if there is none."""
    return max(scopes, key=get_args(Scope).index, default="completion")

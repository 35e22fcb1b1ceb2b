"""infinity's format, version 0.0.78: `POST /infinity/classify`, `GET /infinity/models` and `GET /infinity/health`.

Its client takes a base URL, so that `/classify` can stay vLLM's. It reads a 422 in FastAPI's form alone.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, StrictBool
from starlette.requests import HTTPConnection
from starlette.responses import Response

from reward_service.dialects.base import Dialect, InfoRoute, Query, ScoreRoute, json_response
from reward_service.dialects.openai_errors import OPENAI_ERROR, openai_error
from reward_service.dialects.outputs import Input, best_first, outputs
from reward_service.errors import InvalidRequest, RewardServiceError, sanitize
from reward_service.problem_details import PROBLEM_RESPONSES
from reward_service.request_body import parse_json
from shared.schemas import JSON, RewardInfo, ScoreRequest, ScoreResponse, ServiceInfo, Wire

NO_MODEL = "default/not-specified"
"""What the client sends for a model that its user did not name."""


class InfinityRequest(Wire):
    """Texts to classify."""

    model: str | None = NO_MODEL
    """A reward's name, alias or model. Default: the service's default reward."""
    input: Input
    """One text or several."""
    raw_scores: StrictBool = False
    """Whether to return logits."""


class LabelScore(Wire):
    """A label with its score."""

    score: float
    label: str


class InfinityUsage(Wire):
    """Numbers of tokens read; 0 for a reward without a model."""

    prompt_tokens: int
    total_tokens: int


class InfinityResponse(Wire):
    """The labels of each text, best first."""

    object: Literal["classify"] = "classify"
    data: list[list[LabelScore]]
    model: str
    usage: InfinityUsage
    id: str
    created: int


class InfinityStats(Wire):
    """Load of a model; the service's metrics have it."""

    queue_fraction: float = 0.0
    queue_absolute: int = 0
    results_absolute: int = 0


class InfinityModel(Wire):
    """A reward."""

    id: str
    stats: InfinityStats = Field(default_factory=InfinityStats)
    object: Literal["model"] = "model"
    owned_by: Literal["infinity"] = "infinity"
    created: int = 0
    backend: str
    capabilities: list[str] = Field(default_factory=lambda: ["classify"])


class InfinityModels(Wire):
    """The rewards."""

    data: list[InfinityModel]
    object: Literal["list"] = "list"


class InfinityHealth(Wire):
    """That the service is ready."""

    unix: float


class ValidationDetail(Wire):
    """What is wrong with a request."""

    loc: list[str | int] = Field(default_factory=lambda: list[str | int](["body"]))
    msg: str
    type: str = "value_error"


class ValidationResponse(Wire):
    """A 422 in FastAPI's form."""

    detail: list[ValidationDetail]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a response depends on besides the scores."""

    model: str | None
    raw_scores: bool


def parse(body: bytes, query: Query) -> tuple[ScoreRequest, Wanted]:
    """Parse a body: each text is a completion."""
    request = parse_json(InfinityRequest, body)
    model = None if request.model == NO_MODEL else request.model
    texts = [request.input] if isinstance(request.input, str) else request.input
    return ScoreRequest(completions=list(texts), rewards=model and [model]), Wanted(model, request.raw_scores)


def render(response: ScoreResponse, wanted: Wanted, rewards: Mapping[str, RewardInfo]) -> Response:
    """Render each text's labels, best first."""
    result = outputs(response, rewards, "none" if wanted.raw_scores else "model")
    data = [[LabelScore(score=item.score, label=item.label) for item in items] for items in best_first(result)]
    total = sum(result.tokens)
    return json_response(
        InfinityResponse(
            data=data,
            model=wanted.model or result.reward.name,
            usage=InfinityUsage(prompt_tokens=total, total_tokens=total),
            id=f"infinity-{response.request_id}",
            created=int(time.time()),
        )
    )


def render_models(info: ServiceInfo, query: Query) -> Response:
    """Render the rewards as models."""
    models = [
        InfinityModel(id=reward.name, backend=reward.engine.backend if reward.engine else reward.kind)
        for reward in info.rewards
    ]
    return json_response(InfinityModels(data=models))


def render_health(info: ServiceInfo, query: Query) -> Response:
    """Render the time: the service is ready if it knows its rewards."""
    return json_response(InfinityHealth(unix=time.time()))


def render_error(error: RewardServiceError, connection: HTTPConnection) -> Response:
    """Render an invalid request as FastAPI does, any other error in OpenAI's form."""
    if isinstance(error, InvalidRequest):
        content = ValidationResponse(detail=[ValidationDetail(msg=sanitize(str(error)))]).model_dump_json()
        return Response(content, error.status, media_type=JSON)
    return openai_error(error, error.status)


INVALID: dict[str, Any] = {"description": "Invalid request", "model": ValidationResponse}
DIALECT = Dialect(
    name="infinity",
    routes=(
        ScoreRoute(
            path="/infinity/classify",
            name="infinity_classify",
            description="Classify texts, as infinity does.",
            parse=parse,
            render=render,
            request_model=InfinityRequest,
            response_model=InfinityResponse,
            example={"model": NO_MODEL, "input": ["Sure: it is yellow banana"], "raw_scores": False},
        ),
        InfoRoute(
            path="/infinity/models",
            name="infinity_models",
            description="List the rewards as models.",
            render=render_models,
            response_model=InfinityModels,
        ),
        InfoRoute(
            path="/infinity/health",
            name="infinity_health",
            description="Return 200 once the service is ready.",
            render=render_health,
            response_model=InfinityHealth,
            open=True,
        ),
    ),
    render_error=render_error,
    error_responses=dict.fromkeys(PROBLEM_RESPONSES, OPENAI_ERROR) | {422: INVALID},
)

"""slime's format, version 0.3: `POST /reward` with one completion, answered by a bare number."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field
from starlette.responses import Response

from reward_service.dialects.base import Dialect, Query, ScoreRoute, json_response
from reward_service.dialects.foreign import DETAIL_RESPONSES, only_reward, render_detail
from reward_service.request_body import parse_json
from shared.schemas import JSON, RewardInfo, ScoreRequest, ScoreResponse, Text, Wire


class RewardRequest(Wire):
    """One completion to score."""

    prompt: Text | None = None
    """The prompt, a string or a list of chat messages."""
    response: str
    """The completion. End-of-turn markers at its end are not scored."""
    label: Any = None
    """The reference answer; function rewards get it as the column `label`."""


class RewardDetail(Wire):
    """The response to `?detail=1`, for `--reward-key score`."""

    score: float
    parts: dict[str, Any] = Field(default_factory=dict)
    """The named parts of the score."""


def parse(body: bytes, query: Query) -> tuple[ScoreRequest, bool]:
    """Parse a body; the context is whether the response has the parts."""
    request, detail = parse_json(RewardRequest, body), query.get("detail") == "1"
    prompts = None if request.prompt is None else [request.prompt]
    columns = {} if request.label is None else {"label": [request.label]}
    return ScoreRequest(completions=[request.response], prompts=prompts, columns=columns, details=detail), detail


def render(response: ScoreResponse, detail: bool, rewards: Mapping[str, RewardInfo]) -> Response:
    """Render the score."""
    info, (score,) = only_reward(response, rewards)
    if not detail:
        return Response(repr(score), media_type=JSON)
    (parts,) = response.rewards[info.name].details or [None]
    return json_response(RewardDetail(score=score, parts=parts or {}))


DIALECT = Dialect(
    name="slime",
    routes=(
        ScoreRoute(
            path="/reward",
            name="slime_reward",
            description="Score a completion for slime; ?detail=1 adds the parts of the score.",
            parse=parse,
            render=render,
            request_model=RewardRequest,
            response_model=float | RewardDetail,
            example={"prompt": "What colour is it?", "response": "Sure: it is yellow banana", "label": None},
            decodes_special_tokens=True,
        ),
    ),
    render_error=render_detail,
    error_responses=DETAIL_RESPONSES,
    sends_keys=False,
)

"""LLaMA-Factory's format, version 0.9: `POST /v1/score/evaluation`.

A text is prompt and completion together, and nothing marks where the completion begins. The client never tries again,
and reads an error as scores: a full queue makes the request wait.
"""

import uuid
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field
from starlette.responses import Response

from reward_service.dialects.base import Dialect, Query, ScoreRoute, json_response
from reward_service.dialects.foreign import DETAIL_RESPONSES, only_reward, render_detail
from reward_service.request_body import parse_json
from shared.schemas import RewardInfo, ScoreRequest, ScoreResponse, Wire

ANY_MODEL = "model"
"""What the trainer sends in place of a model's name."""


class ScoreEvaluationRequest(Wire):
    """Texts to score."""

    model: str | None = ANY_MODEL
    """A reward; `model` is the default one."""
    messages: Annotated[list[str], Field(fail_fast=True)]
    """Prompt and completion of each text. End-of-turn markers at the end are not scored."""
    max_length: None = None
    """Not supported, and never sent by the trainer: the configuration truncates."""


class ScoreEvaluationResponse(Wire):
    """One score for each text."""

    id: str
    object: Literal["score.evaluation"] = "score.evaluation"
    model: str
    scores: list[float]


def parse(body: bytes, query: Query) -> tuple[ScoreRequest, str]:
    """Parse a body; the context is the model's name as sent."""
    request = parse_json(ScoreEvaluationRequest, body)
    model = request.model or ANY_MODEL
    names = None if model == ANY_MODEL else [model]
    return ScoreRequest(completions=list(request.messages), rewards=names), model


def render(response: ScoreResponse, model: str, rewards: Mapping[str, RewardInfo]) -> Response:
    """Render the scores."""
    _, scores = only_reward(response, rewards)
    return json_response(ScoreEvaluationResponse(id=f"scoreval-{uuid.uuid4().hex}", model=model, scores=scores))


DIALECT = Dialect(
    name="llamafactory",
    routes=(
        ScoreRoute(
            path="/v1/score/evaluation",
            name="llamafactory_score_evaluation",
            description="Score texts for LLaMA-Factory.",
            parse=parse,
            render=render,
            request_model=ScoreEvaluationRequest,
            response_model=ScoreEvaluationResponse,
            example={"model": "model", "messages": ["What colour is it? Sure: it is yellow banana</s>"]},
            waits_when_full=True,
            decodes_special_tokens=True,
        ),
    ),
    render_error=render_detail,
    error_responses=DETAIL_RESPONSES,
    sends_keys=False,
)

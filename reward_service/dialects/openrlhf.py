"""OpenRLHF's format, version 0.11: `POST /get_reward`, as `openrlhf.cli.serve_rm` answers it.

A query is prompt and completion together, decoded with special tokens. The trainer posts one query a request.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import Field, model_validator
from starlette.responses import Response

from reward_service.dialects.base import Dialect, Query, ScoreRoute, json_response
from reward_service.dialects.foreign import DETAIL_RESPONSES, only_reward, render_detail
from reward_service.request_body import parse_json
from shared.schemas import RewardInfo, ScoreRequest, ScoreResponse, Wire

Strings = Annotated[list[str], Field(fail_fast=True)]


class GetRewardRequest(Wire):
    """Texts to score. Versions up to 0.10 send `query` alone."""

    query: Strings
    """Prompt and completion of each text."""
    prompts: Strings | None = None
    """The prompts. A query that begins with its prompt is scored without it, any other as a whole."""
    labels: list[Any] | None = None
    """The reference answers; function rewards get them as the column `label`."""

    @model_validator(mode="after")
    def _check_equal_lengths(self) -> Self:
        for name, values in (("prompts", self.prompts), ("labels", self.labels)):
            if values is not None and len(values) != len(self.query):
                raise ValueError(f"{name} has {len(values)} items, query has {len(self.query)}")
        return self


class GetRewardResponse(Wire):
    """One number for each query, in every list."""

    rewards: list[float]
    """The scores."""
    scores: list[float]
    """The scores, scaled from the reward's range to 0..1 for dynamic filtering; unscaled if the range is unknown."""
    extra_logs: dict[str, list[float]]
    """The scores by the reward's name, for the trainer's log."""


def parse(body: bytes, query: Query) -> tuple[ScoreRequest, None]:
    """Parse a body, and separate the completions from their prompts."""
    request = parse_json(GetRewardRequest, body)
    prompts = request.prompts
    texts = request.query if prompts is None else list(map(str.removeprefix, request.query, prompts))
    columns = {} if request.labels is None else {"label": request.labels}
    return ScoreRequest(completions=list(texts), prompts=prompts, columns=columns), None


def render(response: ScoreResponse, context: None, rewards: Mapping[str, RewardInfo]) -> Response:
    """Render the scores."""
    info, scores = only_reward(response, rewards)
    scaled = [scaled_to_unit(score, info.range) for score in scores]
    return json_response(GetRewardResponse(rewards=scores, scores=scaled, extra_logs={info.name: scores}))


def scaled_to_unit(score: float, ends: tuple[float, float] | None) -> float:
    """Return the score's position in its range, 0 at the lower end; the score itself if the range is unknown."""
    if ends is None or ends[0] == ends[1]:
        return score
    return (score - ends[0]) / (ends[1] - ends[0])


DIALECT = Dialect(
    name="openrlhf",
    routes=(
        ScoreRoute(
            path="/get_reward",
            name="openrlhf_get_reward",
            description="Score texts for OpenRLHF.",
            parse=parse,
            render=render,
            request_model=GetRewardRequest,
            response_model=GetRewardResponse,
            example={
                "query": ["What colour is it? Sure: it is yellow banana</s>"],
                "prompts": ["What colour is it? "],
                "labels": [None],
            },
            decodes_special_tokens=True,
        ),
    ),
    render_error=render_detail,
    error_responses=DETAIL_RESPONSES,
    sends_keys=False,
)

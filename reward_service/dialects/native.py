"""The native wire format: `POST /v1/score` and `GET /v1/rewards`, with errors as RFC 9457 problem details."""

from collections.abc import Mapping

from starlette.responses import Response

from reward_service.dialects.base import Dialect, InfoRoute, Query, ScoreRoute, json_response
from reward_service.problem_details import PROBLEM_RESPONSES, problem_response
from reward_service.request_body import parse_json
from shared import schemas
from shared.schemas import RewardInfo, ScoreRequest, ScoreResponse, ServiceInfo


def parse(body: bytes, query: Query) -> tuple[ScoreRequest, None]:
    """Parse a body, which is a `ScoreRequest` already."""
    return parse_json(ScoreRequest, body, unknown_fields=False), None


def render(response: ScoreResponse, context: None, rewards: Mapping[str, RewardInfo]) -> Response:
    """Render the scores as they are."""
    return json_response(response)


def render_info(info: ServiceInfo, query: Query) -> Response:
    """Render the service's description as it is."""
    return json_response(info)


DIALECT = Dialect(
    name="native",
    routes=(
        ScoreRoute(
            path=schemas.SCORE_PATH,
            name="score",
            description="Score texts with one or several rewards.",
            parse=parse,
            render=render,
            request_model=ScoreRequest,
            response_model=ScoreResponse,
            example={"completions": ["Sure: it is yellow banana"], "prompts": ["What colour is it?"]},
            several_rewards=True,
        ),
        InfoRoute(
            path=schemas.REWARDS_PATH,
            name="rewards",
            description="List the rewards with their revisions, and the service's limits.",
            render=render_info,
            response_model=ServiceInfo,
        ),
    ),
    render_error=problem_response,
    error_responses=PROBLEM_RESPONSES,
)

"""What formats of other servers share: one reward a request, no null, errors as FastAPI's `{"detail": …}`."""

from collections.abc import Mapping

from pydantic import BaseModel
from starlette.requests import HTTPConnection
from starlette.responses import Response

from reward_service.dialects.base import Documented
from reward_service.errors import MissingScore, Overloaded, RewardServiceError, sanitize
from reward_service.problem_details import PROBLEM_RESPONSES, retry_after_header
from shared.schemas import JSON, RewardInfo, ScoreResponse


class ErrorDetail(BaseModel):
    """Why a request has no scores."""

    detail: str


def only_reward(response: ScoreResponse, rewards: Mapping[str, RewardInfo]) -> tuple[RewardInfo, list[float]]:
    """Return the one reward of a response with its scores. Raise `MissingScore` if one could not be computed."""
    ((name, result),) = response.rewards.items()
    for index, error in result.errors.items():
        raise MissingScore(f"{name} has no score for text {index}: {error.message} ({error.code})")
    return rewards[name], [score for score in result.scores if score is not None]


def render_detail(error: RewardServiceError, connection: HTTPConnection) -> Response:
    """Render an error with its reason in `detail`. Overload is 503: trainers retry it, and give up on a 4xx."""
    status = 503 if isinstance(error, Overloaded) else error.status
    return Response(ErrorDetail(detail=sanitize(str(error))).model_dump_json(), status, retry_after_header(error), JSON)


DETAIL = {"description": "Error", "content": {JSON: {"schema": ErrorDetail.model_json_schema()}}}
DETAIL_RESPONSES: Documented = dict.fromkeys(PROBLEM_RESPONSES.keys() - {429}, DETAIL)
"""The errors of `render_detail` for the OpenAPI document."""

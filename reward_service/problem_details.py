"""Errors as RFC 9457 problem documents, and how the OpenAPI document describes them."""

import math
from typing import Any

from starlette.requests import HTTPConnection
from starlette.responses import Response

from reward_service.errors import RewardServiceError, sanitize
from shared import schemas
from shared.schemas import Problem


def problem_response(error: RewardServiceError, connection: HTTPConnection) -> Response:
    """Return an error as a problem document."""
    problem = Problem(
        title=error.title,
        status=error.status,
        detail=sanitize(str(error)),
        code=error.code,
        request_id=connection.state.request_id,
        retryable=error.retryable,
    )
    content = problem.model_dump_json()
    return Response(content, error.status, retry_after_header(error), schemas.PROBLEM_JSON)


def retry_after_header(error: RewardServiceError) -> dict[str, str]:
    """Return the `Retry-After` header of an error, in whole seconds, or nothing."""
    if error.retry_after_s is None:
        return {}
    return {"Retry-After": str(max(1, math.ceil(error.retry_after_s)))}


def describe_problem(title: str) -> dict[str, Any]:
    """Return OpenAPI's description of a problem document."""
    return {"description": title, "content": {schemas.PROBLEM_JSON: {"schema": Problem.model_json_schema()}}}


PROBLEM_RESPONSES: dict[int | str, dict[str, Any]] = {
    400: describe_problem("Not JSON"),
    401: describe_problem("API key required"),
    404: describe_problem("Unknown reward"),
    412: describe_problem("Other revision"),
    413: describe_problem("Request too large"),
    415: describe_problem("Unsupported content type"),
    422: describe_problem("Invalid request"),
    429: describe_problem("Overloaded"),
    500: describe_problem("Internal server error"),
    503: describe_problem("Not ready"),
}

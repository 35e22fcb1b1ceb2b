"""Errors as RFC 9457 problem documents. The only place that knows their layout."""

import json
import math

from pydantic import ValidationError
from starlette.responses import Response

from reward_service.config import most_telling_error
from reward_service.errors import BadJson, InvalidRequest, RewardServiceError
from shared import schemas
from shared.errors import did_you_mean
from shared.schemas import Problem, ScoreRequest


def problem_response(error: RewardServiceError, request_id: str) -> Response:
    """Lay an error out as the answer to a request."""
    problem = Problem(
        title=error.title,
        status=error.status,
        detail=sanitize(str(error)),
        code=error.code,
        request_id=request_id,
        retryable=error.retryable,
    )
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    content = problem.model_dump_json()
    return Response(content, status_code=error.status, headers=headers, media_type=schemas.PROBLEM_JSON)


def wrong_request(error: ValidationError, body: bytes = b"{}") -> RewardServiceError:
    """Say in one sentence what is wrong with a body."""
    found = most_telling_error(error)
    if found["type"] == "missing" and len(found["loc"]) == 1:
        return _unknown_field(body) or InvalidRequest(f"{found['loc'][0]}: {found['msg']}")
    if found["type"] == "json_invalid":
        return BadJson(f"the body is not JSON: {found['ctx']['error']}")
    where = ".".join(str(step) for step in found["loc"] if step != "str" and "[" not in str(step))
    if found["type"] == "extra_forbidden":
        return _unknown(found["ctx"]["name"])
    message = found["msg"].removeprefix("Value error, ")
    return InvalidRequest(f"{where}: {message}" if where else message)


def _unknown_field(body: bytes) -> InvalidRequest | None:
    """Tell of a field that is not known, which may be why another one is missing. A large body is not read twice."""
    fields = json.loads(body) if len(body) < 10_000 else ()
    unknown = [name for name in fields if name not in ScoreRequest.model_fields]
    return _unknown(unknown[0]) if unknown else None


def _unknown(name: str) -> InvalidRequest:
    return InvalidRequest(f"there is no field {name[:80]!r}{did_you_mean(name[:80], set(ScoreRequest.model_fields))}")


def sanitize(text: str) -> str:
    """Make a text fit for one line of a log or an answer: no control characters, not endless."""
    return "".join(char if char.isprintable() else " " for char in text[:500])

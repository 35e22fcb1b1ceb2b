"""Errors in OpenAI's form, `{"error": {…}}`, as servers that speak to its clients send them."""

from typing import Any

from starlette.responses import Response

from reward_service.errors import RewardServiceError, sanitize
from reward_service.problem_details import retry_after_header
from shared.schemas import JSON, Wire

TYPES = {401: "AuthenticationError", 404: "NotFoundError", 429: "RateLimitError"}


class ErrorInfo(Wire):
    """What went wrong."""

    message: str
    type: str
    param: str | None = None
    code: int


class OpenAIError(Wire):
    """An error in OpenAI's form."""

    error: ErrorInfo


def error_info(error: RewardServiceError, status: int) -> ErrorInfo:
    """Return the description of an error that is answered with this status."""
    kind = TYPES.get(status, "BadRequestError" if status < 500 else "InternalServerError")
    return ErrorInfo(message=sanitize(str(error)), type=kind, code=status)


def openai_error(error: RewardServiceError, status: int) -> Response:
    """Render an error with this status."""
    content = OpenAIError(error=error_info(error, status)).model_dump_json()
    return Response(content, status, retry_after_header(error), JSON)


OPENAI_ERROR: dict[str, Any] = {"description": "Error", "model": OpenAIError}

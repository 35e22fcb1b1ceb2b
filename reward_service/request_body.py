"""Read and parse the body of a request. Raise the `RewardServiceError` that says what is wrong with it."""

import json
import re
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from reward_service.config import most_telling_error
from reward_service.errors import BadContentType, BadJson, ClientDisconnected, InvalidRequest, RewardServiceError
from shared import schemas
from shared.errors import did_you_mean

Model = TypeVar("Model", bound=BaseModel)
ESCAPES = re.compile(rb"\\(?:\\|u[dD][89abAB]\w\w\\u[dD][c-fC-F]\w\w|(?P<lone>u[dD][89a-fA-F]\w\w))")
"""Escaped backslashes, surrogate pairs, and halves of pairs that stand alone."""
MAX_REPARSED_BYTES = 10_000
"""Larger bodies are not parsed a second time for a better message."""


async def read_body(request: Request) -> bytes:
    """Return the body of a JSON request. Raise `BadContentType` or `ClientDisconnected`."""
    media_type = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if media_type != schemas.JSON:
        raise BadContentType(f"send the request as Content-Type: {schemas.JSON}")
    try:
        return await request.body()
    except ClientDisconnect:
        raise ClientDisconnected("the client disconnected before its body had arrived") from None


def parse_json(model: type[Model], body: bytes, *, unknown_fields: bool = True) -> Model:
    """Parse a body. Raise `BadJson` or `InvalidRequest`, with pydantic's `ValidationError` as the cause.

    `unknown_fields=False` says that the model rejects unknown fields: they are then the likely cause of a missing one.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        if (mended := without_lone_surrogates(body)) != body:
            return parse_json(model, mended, unknown_fields=unknown_fields)
        raise _describe(error, model, body, unknown_fields=unknown_fields) from error


def without_lone_surrogates(body: bytes) -> bytes:
    """Return JSON in which each escaped half of a surrogate pair is U+FFFD, as UTF-8 decoders replace what is invalid.

    JSON allows such halves, which are no characters: one among many texts must not cost the others.
    """
    return ESCAPES.sub(lambda match: rb"\ufffd" if match["lone"] else match[0], body)


def _describe(
    error: ValidationError, model: type[BaseModel], body: bytes, *, unknown_fields: bool
) -> RewardServiceError:
    detail = most_telling_error(error)
    if detail["type"] == "json_invalid":
        return BadJson(f"the body is not JSON: {detail['ctx']['error']}")
    if detail["type"] == "extra_forbidden":
        return _unknown_field(detail["ctx"]["name"], model)
    if detail["type"] == "missing" and len(detail["loc"]) == 1:
        fields = json.loads(body) if not unknown_fields and len(body) < MAX_REPARSED_BYTES else ()
        for name in fields:
            if name not in model.model_fields:
                return _unknown_field(name, model)
    location = ".".join(str(step) for step in detail["loc"] if step != "str" and "[" not in str(step))
    message = detail["msg"].removeprefix("Value error, ")
    return InvalidRequest(f"{location}: {message}" if location else message)


def _unknown_field(name: str, model: type[BaseModel]) -> InvalidRequest:
    return InvalidRequest(f"there is no field {name[:80]!r}{did_you_mean(name[:80], model.model_fields)}")

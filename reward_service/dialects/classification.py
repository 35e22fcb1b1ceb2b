"""The response of `/classify` as vLLM and SGLang send it, and their status of an error."""

import time
from collections.abc import Mapping, Sequence
from typing import Literal

from starlette.requests import HTTPConnection
from starlette.responses import Response

from reward_service.dialects.base import json_response
from reward_service.dialects.outputs import Activation, outputs
from reward_service.errors import InvalidRequest, Overloaded, RewardServiceError
from shared.schemas import RewardInfo, ScoreResponse, Wire


class Classification(Wire):
    """The values of one text."""

    index: int
    label: str | None
    """The label of the highest value; null if the reward has no labels."""
    probs: list[float]
    """Probabilities or logits, one per label; the score alone for a reward without labels."""
    num_classes: int


class Usage(Wire):
    """Numbers of tokens read; 0 for a reward without a model."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0


class ClassifyResponse(Wire):
    """The values of each text, in order."""

    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    data: list[Classification]
    usage: Usage


def usage(tokens: Sequence[int]) -> Usage:
    """Return the sum of the texts' tokens."""
    return Usage(prompt_tokens=sum(tokens), total_tokens=sum(tokens))


def render_classes(
    response: ScoreResponse, rewards: Mapping[str, RewardInfo], model: str | None, activation: Activation
) -> Response:
    """Render the values of each text. `model` is the name that the request used."""
    result = outputs(response, rewards, activation)
    data = []
    for index, values in enumerate(result.values):
        label = result.labels[max(range(len(values)), key=values.__getitem__)]
        data.append(Classification(index=index, label=label, probs=list(values), num_classes=len(values)))
    return json_response(
        ClassifyResponse(
            id=f"classify-{response.request_id}",
            created=int(time.time()),
            model=model or result.reward.name,
            data=data,
            usage=usage(result.tokens),
        )
    )


def error_status(error: RewardServiceError, connection: HTTPConnection) -> int:
    """Return the status of an error: 400 for an invalid request, and for overload the one that the client retries.

    verl gives up on every 4xx, so callers with its HTTP library, aiohttp, get overload as 503.
    """
    if isinstance(error, Overloaded) and "aiohttp" in connection.headers.get("User-Agent", ""):
        return 503
    return 400 if isinstance(error, InvalidRequest) else error.status

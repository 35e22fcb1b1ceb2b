"""Turn responses into scores or errors: check them against the request, and merge those of chunks."""

from collections.abc import Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from itertools import accumulate
from time import time
from typing import Any

import httpx
from pydantic import ValidationError

from shared import schemas
from shared.errors import (
    BadRequest,
    InternalServerError,
    InvalidResponse,
    NotARewardService,
    NotReady,
    Overloaded,
    RequestTimeout,
    RevisionChanged,
    RewardError,
    ServiceError,
    ServiceUnreachable,
    Unauthorized,
    UnknownReward,
    check_revision,
)
from shared.schemas import Problem, RewardScores, ScoreResponse, ServiceInfo

MAX_RESPONSE_BYTES = 64_000_000
"""Far above the response to any request within the limits, with details."""
INSTANCE_HEADER = schemas.INSTANCE_HEADER.lower().encode()
KEPT_HEADERS = {b"content-type", b"retry-after", INSTANCE_HEADER}
ERROR_BY_STATUS: dict[int, type[ServiceError]] = {
    401: Unauthorized,
    403: Unauthorized,
    404: UnknownReward,
    408: RequestTimeout,
    429: Overloaded,
    500: InternalServerError,
    503: NotReady,
}


async def read_response(stream: httpx.Response) -> httpx.Response:
    """Read the whole body, undecoded. Raise `InvalidResponse` if it is larger than `MAX_RESPONSE_BYTES`."""
    if stream.is_stream_consumed:  # in memory already, as from httpx.MockTransport
        body = bytearray(stream.content)
    else:
        body = bytearray()
        async for part in stream.aiter_raw():
            body += part
            if len(body) > MAX_RESPONSE_BYTES:
                raise InvalidResponse(f"{stream.request.url} responds with more than {MAX_RESPONSE_BYTES} bytes")
    # as bytes, since a gateway may send them in any encoding
    headers = [(name, value) for name, value in stream.headers.raw if name.lower() in KEPT_HEADERS]
    return httpx.Response(stream.status_code, headers=headers, content=bytes(body), request=stream.request)


def raise_for_problem(response: httpx.Response) -> None:
    """Raise the error that a response other than 200 stands for."""
    if response.status_code == 200:
        return
    problem = _problem(response)
    if problem is None:
        raise _unexpected_response(response)
    if problem.code == "http" and response.status_code == 404:
        raise NotARewardService(f"{problem.detail} (at {response.request.url}); check the path of the URL")
    if problem.code == schemas.OTHER_REVISION:
        raise RevisionChanged(problem.detail)
    error = ERROR_BY_STATUS.get(response.status_code, NotReady if problem.retryable else BadRequest)
    raise error(
        f"{response.request.url}: {problem.detail} [{problem.code}, request {problem.request_id}]",
        status=problem.status,
        code=problem.code,
        retry_after_s=_retry_after_s(response),
        instance=instance_of(response),
    )


def instance_of(response: httpx.Response) -> str | None:
    """Return which instance of the service has responded; None if it does not say."""
    for name, value in response.headers.raw:  # `get` decodes all of them first
        if name.lower() == INSTANCE_HEADER:
            return value.decode("ascii", "replace")
    return None


def parse_service_info(response: httpx.Response) -> ServiceInfo:
    """Parse the response of `GET /v1/rewards`."""
    try:
        return ServiceInfo.model_validate_json(response.content)
    except ValidationError as cause:
        raise _unexpected_response(response) from cause


def score_parser(
    count: int, rewards: Sequence[str] | None = None, revisions: Mapping[str, str] | None = None
) -> Callable[[httpx.Response], ScoreResponse]:
    """Return a parser of the response to `count` completions scored by `rewards` (None: by the service's default).

    It raises `InvalidResponse` if the response does not match the request, and `RevisionChanged` if a reward in
    `revisions` has another revision.
    """

    def parse(response: httpx.Response) -> ScoreResponse:
        url = response.request.url
        try:
            parsed = ScoreResponse.model_validate_json(response.content)
        except ValidationError as cause:
            raise InvalidResponse(f"{url} violates the wire format: {_first_error(cause)}") from cause
        if missing := set(rewards or ()) - set(parsed.rewards):
            raise InvalidResponse(f"{url} returned no scores of {', '.join(sorted(missing))}")
        for name, reward in parsed.rewards.items():
            if len(reward.scores) != count:
                raise InvalidResponse(f"{url} returned {len(reward.scores)} scores of {name} for {count} completions")
            check_revision(name, reward.revision, (revisions or {}).get(name, reward.revision))
        return parsed

    return parse


class MixedRevisions(RevisionChanged):
    """The chunks of one call were scored by several revisions, or by different rewards."""


def merge(parts: Sequence[ScoreResponse]) -> ScoreResponse:
    """Merge the responses to consecutive chunks.

    Raises `MixedRevisions` unless all were scored by the same rewards, each with a single revision.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    _check_same_rewards(sorted({", ".join(sorted(part.rewards)) for part in parts}))
    rewards = {name: _merge_reward(name, [part.rewards[name] for part in parts]) for name in first.rewards}
    return first.model_copy(update={"rewards": rewards})


def _check_same_rewards(rewards: list[str]) -> None:
    if len(rewards) > 1:
        raise MixedRevisions(f"the chunks of one call were scored by different rewards: {' or '.join(rewards)}")


def _merge_reward(name: str, parts: list[RewardScores]) -> RewardScores:
    revisions = sorted({part.revision for part in parts})
    if len(revisions) > 1:
        raise MixedRevisions(
            f"the chunks of one call were scored by several revisions of {name}: {', '.join(revisions)}"
        )
    offsets = accumulate((len(part.scores) for part in parts), initial=0)
    shifted = list(zip(parts, offsets, strict=False))  # the last offset is the total
    return RewardScores(
        scores=[score for part in parts for score in part.scores],
        revision=revisions[0],
        errors={str(int(index) + offset): error for part, offset in shifted for index, error in part.errors.items()},
        truncated=[index + offset for part, offset in shifted for index in part.truncated],
        overlong=[index + offset for part, offset in shifted for index in part.overlong],
        details=None if parts[0].details is None else [item for part in parts for item in part.details or []],
        metrics=_merge_metrics(parts),
        extra=_merge_extra(parts),
    )


def _merge_metrics(parts: Sequence[RewardScores]) -> dict[str, float]:
    """Return the mean of each metric over the completions of the chunks that logged it."""
    logged: dict[str, list[tuple[float, int]]] = {}
    for part in parts:
        for name, value in part.metrics.items():
            logged.setdefault(name, []).append((value, len(part.scores)))
    return {name: sum(v * n for v, n in pairs) / sum(n for _, n in pairs) for name, pairs in logged.items()}


def _merge_extra(parts: Sequence[RewardScores]) -> dict[str, list[Any]]:
    columns = dict.fromkeys(column for part in parts for column in part.extra)
    return {
        column: [value for part in parts for value in part.extra.get(column, [None] * len(part.scores))]
        for column in columns
    }


def _retry_after_s(response: httpx.Response) -> float | None:
    return parse_retry_after(response.headers.get("Retry-After"), now_s=time())


def parse_retry_after(header: str | None, *, now_s: float) -> float | None:
    """Return the seconds of a `Retry-After` header, which holds seconds or a date; None if it is invalid."""
    if header is None:
        return None
    if (seconds := header.strip()).isascii() and seconds.isdigit():
        return float(seconds)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - now_s)
    except (ValueError, OverflowError):  # no date, or one beyond any calendar
        return None


def _problem(response: httpx.Response) -> Problem | None:
    if not response.headers.get("Content-Type", "").startswith(schemas.PROBLEM_JSON):
        return None
    try:
        return Problem.model_validate_json(response.content)
    except ValidationError:
        return None


def _unexpected_response(response: httpx.Response) -> RewardError:
    """Return the error for a response without a problem document, as a proxy or another service sends it."""
    status, url = response.status_code, response.request.url
    message = f"{url} responded with {status} ({response.headers.get('Content-Type') or 'no content type'})"
    if status == 500:
        return InternalServerError(message, status=500, code="failed")
    if status == 429:
        return Overloaded(message, status=429, code="gateway_busy", retry_after_s=_retry_after_s(response))
    if status > 500 or status == 408:  # a proxy without its service, or a service that shuts down
        return ServiceUnreachable(message)
    return NotARewardService(
        f"{message}, which is no response of a reward service; check the host and port, and whether a proxy or a "
        f"login page stands between"
    )


def _first_error(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"

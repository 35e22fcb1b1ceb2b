"""Read what a reward service answered, and refuse whatever is not exactly what was asked for."""

from collections.abc import Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from time import time

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

MOST_BYTES = 64_000_000
"""The largest answer that is read: a request's texts, each with details, are far below it."""
KEPT = {b"content-type", b"retry-after"}
REFUSALS: dict[int, type[ServiceError]] = {
    401: Unauthorized,
    403: Unauthorized,
    404: UnknownReward,
    408: RequestTimeout,
    429: Overloaded,
    500: InternalServerError,
    503: NotReady,
}


async def read(stream: httpx.Response) -> httpx.Response:
    """Read an answer whole, as it came. Raises `InvalidResponse` once it is larger than any answer of ours."""
    body = bytearray()
    async for part in stream.aiter_raw():
        body += part
        if len(body) > MOST_BYTES:
            raise InvalidResponse(f"{stream.request.url} answers with more than {MOST_BYTES} bytes")
    kept = [(name, value) for name, value in stream.headers.raw if name.lower() in KEPT]  # bytes: in any encoding
    return httpx.Response(stream.status_code, headers=kept, content=bytes(body), request=stream.request)


def raise_for_problem(response: httpx.Response) -> None:
    """Raise what a response other than 200 means."""
    if response.status_code == 200:
        return
    problem = _problem(response)
    if problem is None:
        raise _not_ours(response)
    if problem.code == "http" and response.status_code == 404:
        raise NotARewardService(f"{problem.detail} (at {response.request.url}); check the path in the address")
    kind = REFUSALS.get(response.status_code, NotReady if problem.retryable else BadRequest)
    raise kind(
        f"{response.request.url}: {problem.detail} [{problem.code}, request {problem.request_id}]",
        status=problem.status,
        code=problem.code,
        retry_after_s=_wait_s(response),
    )


def _wait_s(response: httpx.Response) -> float | None:
    return retry_after_s(response.headers.get("Retry-After"), now_s=time())


def service_info(response: httpx.Response) -> ServiceInfo:
    """Read the answer of `GET /v1/rewards`."""
    try:
        return ServiceInfo.model_validate_json(response.content)
    except ValidationError as cause:
        raise _not_ours(response) from cause


def score_response(
    count: int, rewards: Sequence[str] | None = None, revisions: Mapping[str, str] | None = None
) -> Callable[[httpx.Response], ScoreResponse]:
    """Make a reader of the answer to `count` texts, scored by `rewards` (None: by the service's default).

    It raises `RevisionChanged` for scores of a reward in `revisions` that another revision made.
    """

    def read(response: httpx.Response) -> ScoreResponse:
        try:
            answer = ScoreResponse.model_validate_json(response.content)
        except ValidationError as cause:
            raise InvalidResponse(f"{response.request.url} broke the contract: {_first(cause)}") from cause
        if missing := set(rewards or ()) - set(answer.rewards):
            raise InvalidResponse(f"{response.request.url} left out {', '.join(sorted(missing))}")
        for name, reward in answer.rewards.items():
            if len(reward.scores) != count:
                raise InvalidResponse(
                    f"{response.request.url} gave {len(reward.scores)} scores of {name} for {count} texts"
                )
            check_revision(name, reward.revision, (revisions or {}).get(name, reward.revision))
        return answer

    return read


class SeveralRevisions(RevisionChanged):
    """The parts of one call were scored by several revisions, or by different rewards."""


def merge(parts: Sequence[tuple[ScoreResponse, int]]) -> ScoreResponse:
    """Put the answers to consecutive chunks together, each with its number of texts.

    Raises `SeveralRevisions` if they were not all scored by the same rewards, each of the same revision.
    """
    if len(parts) == 1:
        return parts[0][0]
    first = parts[0][0]
    _refuse_different(sorted({", ".join(sorted(part.rewards)) for part, _ in parts}))
    offsets = [sum(count for _, count in parts[:index]) for index in range(len(parts))]
    rewards = {name: _joined(name, [part.rewards[name] for part, _ in parts], offsets) for name in first.rewards}
    return first.model_copy(update={"rewards": rewards})


def _refuse_different(rewards: list[str]) -> None:
    if len(rewards) > 1:
        raise SeveralRevisions(f"one call was answered by different rewards: {' or '.join(rewards)}")


def _joined(name: str, parts: list[RewardScores], offsets: list[int]) -> RewardScores:
    revisions = sorted({part.revision for part in parts})
    if len(revisions) > 1:
        raise SeveralRevisions(f"one call for {name} was answered by several revisions: {', '.join(revisions)}")
    shifted = list(zip(parts, offsets, strict=True))
    return RewardScores(
        scores=[score for part in parts for score in part.scores],
        revision=revisions[0],
        errors={str(int(i) + offset): error for part, offset in shifted for i, error in part.errors.items()},
        truncated=[index + offset for part, offset in shifted for index in part.truncated],
        details=None if parts[0].details is None else [d for part in parts for d in part.details or []],
    )


def retry_after_s(header: str | None, *, now_s: float) -> float | None:
    """Read a `Retry-After` header, seconds or a date; None where it says nothing of use."""
    if header is None:
        return None
    if (seconds := header.strip()).isascii() and seconds.isdigit():
        return float(seconds)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - now_s)
    except (ValueError, OverflowError):  # no date, or one beyond all calendars
        return None


def _problem(response: httpx.Response) -> Problem | None:
    if not response.headers.get("Content-Type", "").startswith(schemas.PROBLEM_JSON):
        return None
    try:
        return Problem.model_validate_json(response.content)
    except ValidationError:
        return None


def _not_ours(response: httpx.Response) -> RewardError:
    kind = response.headers.get("Content-Type") or "no content type"
    url = response.request.url
    if response.status_code == 500:  # a gateway, or the server that our service runs in
        return InternalServerError(f"{url} answered 500 ({kind})", status=500, code="failed")
    if response.status_code == 429:  # a gateway that has too much to do
        told = f"{url} answered 429 ({kind})"
        return Overloaded(told, status=429, code="gateway_busy", retry_after_s=_wait_s(response))
    if response.status_code >= 500 or response.status_code == 408:  # a proxy, or a service on its way down: ask again
        return ServiceUnreachable(f"{url} answered {response.status_code} ({kind})")
    return NotARewardService(
        f"{url} answered {response.status_code} ({kind}), which no reward service of ours does; "
        f"check the host and port, and whether a proxy or a login page stands between"
    )


def _first(error: ValidationError) -> str:
    found = error.errors()[0]
    return f"{'.'.join(map(str, found['loc']))}: {found['msg']}"

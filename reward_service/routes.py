"""The HTTP face: parse, score, answer. Every decision is made elsewhere."""

import asyncio
import time
from collections.abc import Coroutine
from functools import partial
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError
from starlette.responses import HTMLResponse

from reward_service.errors import BadContentType, BodyTooLarge, CallerGone
from reward_service.lifecycle import Lifecycle
from reward_service.pages import page
from reward_service.problems import wrong_request
from reward_service.settings import Settings
from shared import protocol
from shared.schemas import Limits, Problem, ScoreRequest, ScoreResponse, ServiceInfo

T = TypeVar("T")

PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {
        "description": title,
        "content": {protocol.PROBLEM_JSON: {"schema": Problem.model_json_schema()}},
    }
    for status, title in {
        400: "Not JSON",
        401: "API key needed",
        404: "Unknown reward",
        413: "Request too large",
        415: "Unsupported content type",
        422: "Invalid request",
        429: "Overloaded",
        503: "Not ready",
    }.items()
}
BODY = {
    "requestBody": {
        "required": True,
        "content": {protocol.JSON: {"schema": {"$ref": "#/components/schemas/ScoreRequest"}}},
    }
}


def routes(life: Lifecycle, version: str) -> APIRouter:
    """Make the routes of one service."""
    router = APIRouter()
    router.include_router(_scoring(life, version), tags=["scoring"])
    router.include_router(_health(life), tags=["health"])
    for path, name in {"/": "try", "/docs": "docs"}.items():
        router.add_api_route(path, partial(page, name), include_in_schema=False, response_class=HTMLResponse)
    return router


def _scoring(life: Lifecycle, version: str) -> APIRouter:
    router = APIRouter()

    @router.post(protocol.SCORE_PATH, responses=PROBLEMS, openapi_extra=BODY)
    async def score(request: Request) -> ScoreResponse:
        """Score texts with one or several rewards."""
        deadline_s = deadline_of(request.headers.get(protocol.TIMEOUT_HEADER), now_s=time.monotonic())
        asked = await read_request(request, life.settings.texts_per_request)
        scorer, request_id = life.scorer(), request.state.request_id
        response = await unless_gone(request, scorer.score(asked, request_id=request_id, deadline_s=deadline_s))
        life.metrics.answered(response)
        return Response(response.model_dump_json(), media_type=protocol.JSON)  # type: ignore[return-value]

    @router.get(protocol.REWARDS_PATH)
    async def rewards() -> ServiceInfo:
        """List the rewards, what made them, and the service's limits."""
        scorer = life.scorer()
        infos = [reward.info for reward in scorer.rewards.values()]
        return ServiceInfo(version=version, rewards=infos, default=scorer.default, limits=limits(life.settings))

    return router


def _health(life: Lifecycle) -> APIRouter:
    router = APIRouter()

    @router.get(protocol.LIVE_PATH)
    async def live() -> dict[str, str]:
        """Tell that the process runs."""
        return {"status": "alive"}

    @router.get(protocol.READY_PATH, responses={503: PROBLEMS[503]})
    @router.get(protocol.HEALTH_PATH, responses={503: PROBLEMS[503]})
    async def ready() -> dict[str, str]:
        """Tell that every model is loaded and has scored a canary, and that the service is not draining."""
        life.scorer()
        return {"status": "ready"}

    @router.get(protocol.METRICS_PATH)
    async def metrics() -> Response:
        """Give the figures for Prometheus."""
        return Response(life.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router


def limits(settings: Settings) -> Limits:
    """Tell callers how much they may send."""
    return Limits(
        texts_per_request=settings.texts_per_request,
        body_bytes=settings.body_limit_bytes,
        queue_texts=settings.queue_texts,
    )


async def read_request(request: Request, texts_per_request: int) -> ScoreRequest:
    """Read and check a body. Raises the error that says what is wrong with it."""
    kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind != protocol.JSON:
        raise BadContentType(f"send the request as Content-Type: {protocol.JSON}")
    try:
        asked = ScoreRequest.model_validate_json(await request.body())
    except ValidationError as error:
        raise wrong_request(error) from error
    if len(asked.completions) > texts_per_request:
        raise BodyTooLarge(f"a request may have {texts_per_request} texts, this one has {len(asked.completions)}")
    return asked


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Do the work, unless its caller hangs up first: then it is cancelled. The body has been read."""
    working, leaving = asyncio.create_task(work), asyncio.create_task(_hung_up(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise CallerGone("the caller has gone")
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def deadline_of(header: str | None, *, now_s: float) -> float:
    """Give the moment at which the caller stops waiting; never, where it does not say."""
    if header is None or not header.isascii() or not header.isdigit() or len(header) > 12:
        return float("inf")
    return now_s + int(header) / 1000

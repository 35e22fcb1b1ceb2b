"""The HTTP face: parse, score, answer. Every decision is made elsewhere."""

import asyncio
import time
from collections.abc import Coroutine
from functools import partial
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, PlainTextResponse

from reward_service.batching.admission import parse_timeout_header
from reward_service.errors import BadContentType, BodyTooLarge, ClientDisconnected, ConfigError, NotReloaded
from reward_service.lifecycle import Lifecycle
from reward_service.pages import page
from reward_service.problem_details import wrong_request
from reward_service.scorer import Scorer
from reward_service.settings import Settings
from shared import schemas
from shared.schemas import Limits, Problem, ScoreRequest, ScoreResponse, ServiceInfo

T = TypeVar("T")


def _problem(title: str) -> dict[str, Any]:
    return {"description": title, "content": {schemas.PROBLEM_JSON: {"schema": Problem.model_json_schema()}}}


PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: _problem("Not JSON"),
    401: _problem("API key needed"),
    404: _problem("Unknown reward"),
    413: _problem("Request too large"),
    415: _problem("Unsupported content type"),
    422: _problem("Invalid request"),
    429: _problem("Overloaded"),
    500: _problem("Fault of the service"),
    503: _problem("Not ready"),
}
BODY = {
    "requestBody": {
        "required": True,
        "content": {schemas.JSON: {"schema": {"$ref": "#/components/schemas/ScoreRequest"}}},
    }
}


def add_routes(router: APIRouter, lifecycle: Lifecycle, version: str) -> None:
    """Add the routes of one service to the application's own router: each router in between takes its time."""
    _add_scoring(router, lifecycle, version)
    _add_health(router, lifecycle)
    if lifecycle._settings.admin_key is not None:
        _add_admin(router, lifecycle, version)
    for path, name in {"/": "try", "/docs": "docs"}.items():
        router.add_api_route(path, partial(page, name), include_in_schema=False, response_class=HTMLResponse)


def _add_scoring(router: APIRouter, lifecycle: Lifecycle, version: str) -> None:
    @router.post(schemas.SCORE_PATH, tags=["scoring"], responses=PROBLEMS, openapi_extra=BODY)
    async def score(request: Request) -> ScoreResponse:
        """Score texts with one or several rewards."""
        deadline_s = parse_timeout_header(request.headers.get(schemas.TIMEOUT_HEADER), now_s=time.monotonic())
        with lifecycle.drain_on_cancel():
            asked = await read_request(request, lifecycle._settings.max_request_texts)
            with lifecycle.acquire_scorer() as scorer:
                work = scorer.score(asked, request_id=request.state.request_id, deadline_s=deadline_s)
                response = await cancel_on_disconnect(request, work)
        lifecycle._metrics.record_response(response)
        return Response(response.model_dump_json(), media_type=schemas.JSON)  # type: ignore[return-value]

    @router.get(schemas.REWARDS_PATH, tags=["scoring"])
    async def rewards() -> ServiceInfo:
        """List the rewards, what made them, and the service's limits."""
        return service_info(lifecycle.scorer(), lifecycle._settings, version)


def _add_admin(router: APIRouter, lifecycle: Lifecycle, version: str) -> None:
    @router.post(schemas.RELOAD_PATH, tags=["admin"], responses={409: _problem("Not reloaded")})
    async def reload() -> ServiceInfo:
        """Read the configured files anew and serve what they say. What a request holds is not looked at."""
        try:
            return service_info(await lifecycle.reload(), lifecycle._settings, version)
        except ConfigError as error:
            raise NotReloaded(f"the rewards stay as they are: {error}") from error


def _add_health(router: APIRouter, lifecycle: Lifecycle) -> None:
    @router.get(schemas.LIVE_PATH, tags=["health"])
    async def live() -> dict[str, str]:
        """Tell that the process runs."""
        return {"status": "alive"}

    @router.get(schemas.READY_PATH, tags=["health"], responses={503: PROBLEMS[503]})
    @router.get(schemas.HEALTH_PATH, tags=["health"], responses={503: PROBLEMS[503]})
    async def ready() -> dict[str, str]:
        """Tell that every model is loaded and has scored a canary, and that the service is not draining."""
        lifecycle.check_ready()
        return {"status": "ready"}

    @router.get(schemas.METRICS_PATH, tags=["health"], response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Give the figures for Prometheus."""
        return Response(lifecycle._metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")


def service_info(scorer: Scorer, settings: Settings, version: str) -> ServiceInfo:
    """Tell callers what scores, and how much they may send."""
    limits = Limits(
        max_request_texts=settings.max_request_texts,
        max_body_bytes=settings.max_body_bytes,
        max_queue_texts=settings.max_queue_texts,
    )
    infos = [reward.info for reward in scorer.rewards.values()]
    return ServiceInfo(version=version, rewards=infos, default=scorer.default, limits=limits)


async def read_request(request: Request, max_request_texts: int) -> ScoreRequest:
    """Read and check a body. Raises the error that says what is wrong with it."""
    kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind != schemas.JSON:
        raise BadContentType(f"send the request as Content-Type: {schemas.JSON}")
    try:
        body = await request.body()
    except ClientDisconnect:
        raise ClientDisconnected("the caller has gone before its body was here") from None
    try:
        asked = ScoreRequest.model_validate_json(body)
    except ValidationError as error:
        raise wrong_request(error, body) from error
    if len(asked.completions) > max_request_texts:
        raise BodyTooLarge(f"a request may have {max_request_texts} texts, this one has {len(asked.completions)}")
    return asked


async def cancel_on_disconnect(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Do the work, unless its caller hangs up first: then it is cancelled. The body has been read."""
    working, leaving = asyncio.create_task(work), asyncio.create_task(_wait_for_disconnect(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnected("the caller has gone")
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

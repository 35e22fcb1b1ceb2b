"""The endpoints: those of the dialects, and the service's own for health, metrics, reloading and documentation."""

import asyncio
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from starlette.responses import JSONResponse, PlainTextResponse

from reward_service.dialects.base import Dialect, InfoRoute, Query, ScoreRoute
from reward_service.errors import BodyTooLarge, ClientDisconnected, ConfigError, InvalidRequest, NotReloaded, Overloaded
from reward_service.lifecycle import Lifecycle
from reward_service.metrics import Metrics
from reward_service.openapi import build_document
from reward_service.pages import page_endpoints
from reward_service.problem_details import PROBLEM_RESPONSES, describe_problem
from reward_service.request_body import read_body
from reward_service.route_table import Access, RouteEntry, RouteTable
from reward_service.scorer import Scorer
from reward_service.settings import Settings
from reward_service.text import without_end_of_turn
from shared import schemas
from shared.schemas import Limits, ScoreRequest, ScoreResponse, ServiceInfo

T = TypeVar("T")
NOT_READY = {503: PROBLEM_RESPONSES[503]}
MIN_DELAY_S = 0.05
"""Shortest delay before a request that waits for a full queue is tried again."""


@dataclass(frozen=True, slots=True)
class Service:
    """What the endpoints use."""

    settings: Settings
    lifecycle: Lifecycle
    metrics: Metrics
    version: str

    def info(self, scorer: Scorer) -> ServiceInfo:
        """Return the description of the rewards and of the service's limits."""
        limits = Limits(
            max_request_texts=self.settings.max_request_texts,
            max_body_bytes=self.settings.max_body_bytes,
            max_queue_texts=self.settings.max_queue_texts,
            calls=self.settings.client_calls,
            spread=self.settings.spread,
        )
        infos = [reward.info for reward in scorer.rewards.values()]
        return ServiceInfo(
            version=self.version,
            rewards=infos,
            default=scorer.default,
            dialects=sorted(self.lifecycle.dialects),
            limits=limits,
        )


def add_routes(app: FastAPI, table: RouteTable, service: Service, dialects: Sequence[Dialect]) -> None:
    """Add all endpoints of a service."""
    for dialect in dialects:
        for route in dialect.routes:
            if isinstance(route, ScoreRoute):
                _add_scoring(table, service, dialect, route)
            else:
                _add_info(table, service, dialect, route)
    _add_health(table, service)
    if service.settings.admin_key is not None:
        _add_admin(table, service)
    _add_documentation(table, app, dialects)


def _add_scoring(table: RouteTable, service: Service, dialect: Dialect, route: ScoreRoute[Any]) -> None:
    lifecycle, max_request_texts = service.lifecycle, service.settings.max_request_texts

    async def score(request: Request) -> Response:
        with lifecycle.drain_on_cancel():
            table.check_served(dialect)
            body, pins = await read_body(request), requested_pins(request)
            lifecycle.check_pins(pins)
            parsed, context = route.parse(body, request.query_params)
            if route.decodes_special_tokens:
                remove_end_of_turn(parsed, lifecycle.dialects[dialect.name].end_of_turn)
            if len(parsed.completions) > max_request_texts:
                count = len(parsed.completions)
                raise BodyTooLarge(f"a request may have {max_request_texts} texts, this one has {count}")
            with lifecycle.acquire_scorer() as scorer:
                if not route.several_rewards:
                    parsed.rewards = [scorer.select(requested_reward(parsed, request.query_params))]
                work = score_when_admitted(scorer, parsed, request, waits_when_full=route.waits_when_full)
                response = await cancel_on_disconnect(request, work)
                infos = {name: scorer.get(name).info for name in response.rewards}
        service.metrics.record_response(response)
        service.metrics.record_pins({name: pins[name] for name in response.rewards if name in pins})
        return route.render(response, context, infos)

    table.add(
        RouteEntry(path=route.path, dialect=dialect, scoring=route),
        score,
        methods=["POST"],
        tags=["scoring"],
        name=route.name,
        summary=route.description.rstrip("."),
        response_model=route.response_model,
        responses=dict(dialect.error_responses),
    )


def _add_info(table: RouteTable, service: Service, dialect: Dialect, route: InfoRoute) -> None:
    async def info(request: Request) -> Response:
        table.check_served(dialect)
        return route.render(service.info(service.lifecycle.scorer()), request.query_params)

    access = Access.OPEN if route.open else Access.API_KEY
    table.add(
        RouteEntry(path=route.path, dialect=dialect, access=access),
        info,
        methods=[route.method],
        tags=["scoring"],
        name=route.name,
        summary=route.description.rstrip("."),
        response_model=route.response_model,
    )


def _add_health(table: RouteTable, service: Service) -> None:
    async def live() -> dict[str, str]:
        """Return 200 while the process runs."""
        return {"status": "alive"}

    async def ready() -> dict[str, str]:
        """Return 200 once every model is loaded and has scored a canary, and 503 while draining."""
        service.lifecycle.check_ready()
        return {"status": "ready"}

    async def metrics() -> Response:
        """Return the metrics in Prometheus's text format."""
        return Response(service.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    probe = partial(RouteEntry, dialect=table.default, access=Access.OPEN, quiet=True)
    table.add(probe(path=schemas.LIVE_PATH), live, tags=["health"])
    table.add(probe(path=schemas.HEALTH_PATH), ready, tags=["health"], responses=NOT_READY)
    table.add(probe(path=schemas.READY_PATH), ready, tags=["health"], responses=NOT_READY)
    table.add(
        RouteEntry(path=schemas.METRICS_PATH, dialect=table.default, quiet=True),
        metrics,
        tags=["health"],
        response_class=PlainTextResponse,
    )


def _add_admin(table: RouteTable, service: Service) -> None:
    async def reload() -> ServiceInfo:
        """Load the configuration again and serve its rewards. The body is ignored."""
        try:
            return service.info(await service.lifecycle.reload())
        except ConfigError as error:
            raise NotReloaded(f"the rewards are unchanged: {error}") from error

    table.add(
        RouteEntry(path=schemas.RELOAD_PATH, dialect=table.default, access=Access.ADMIN),
        reload,
        methods=["POST"],
        tags=["admin"],
        responses={409: describe_problem("Not reloaded")},
    )


def _add_documentation(table: RouteTable, app: FastAPI, dialects: Sequence[Dialect]) -> None:
    async def openapi() -> JSONResponse:
        document = build_document(app, dialects)
        served = {path: item for path, item in document["paths"].items() if table.find(path) is not None}
        return JSONResponse({**document, "paths": served})

    entry = partial(RouteEntry, dialect=table.default, access=Access.OPEN, quiet=True)
    table.add(entry(path="/openapi.json"), openapi, include_in_schema=False)
    for path, endpoint in page_endpoints().items():
        table.add(entry(path=path), endpoint, methods=["GET", "HEAD"], include_in_schema=False)


def requested_pins(request: Request) -> dict[str, str]:
    """Return the revisions that a request is pinned to. Raise `InvalidRequest` if its header is malformed."""
    try:
        return schemas.parse_pins(request.headers.get(schemas.REVISION_HEADER, ""))
    except ValueError as error:
        raise InvalidRequest(f"{schemas.REVISION_HEADER}: {error}; write <reward>=<revision>, …") from None


def requested_reward(parsed: ScoreRequest, query: Query) -> str | None:
    """Return the reward that a request asks for: `?reward=` in the URL, else the name in its body, else None."""
    return query["reward"] if "reward" in query else next(iter(parsed.rewards or []), None)


def remove_end_of_turn(parsed: ScoreRequest, markers: Sequence[str]) -> None:
    """Remove the end-of-turn markers from the end of each completion that is a string."""
    parsed.completions = [
        without_end_of_turn(text, markers) if isinstance(text, str) else text for text in parsed.completions
    ]


async def score_when_admitted(
    scorer: Scorer, parsed: ScoreRequest, request: Request, *, waits_when_full: bool
) -> ScoreResponse:
    """Score a request. With `waits_when_full`, retry until the deadline while the queue is full."""
    state = request.state
    while True:
        try:
            return await scorer.score(parsed, request_id=state.request_id, deadline_s=state.deadline_s)
        except Overloaded as error:
            remaining_s = state.deadline_s - time.monotonic()
            if not waits_when_full or remaining_s <= 0:
                raise
            await asyncio.sleep(min(remaining_s, max(MIN_DELAY_S, error.retry_after_s or 0.0)))


async def cancel_on_disconnect(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Await `work`, and cancel it if the client disconnects first. The body must have been read."""
    working, disconnecting = asyncio.create_task(work), asyncio.create_task(_wait_for_disconnect(request))
    try:
        await asyncio.wait({working, disconnecting}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnected("the client disconnected")
        return working.result()
    finally:
        working.cancel()
        disconnecting.cancel()


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

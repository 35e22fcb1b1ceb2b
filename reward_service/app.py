"""Build the ASGI application from settings, rewards and dialects. Importing this module has no side effects."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import Response

from reward_service import middleware
from reward_service.dialects import DIALECTS, native
from reward_service.dialects.base import Dialect
from reward_service.errors import HttpError, InternalError, RewardServiceError
from reward_service.lifecycle import Lifecycle
from reward_service.metrics import Metrics
from reward_service.rewards.base import Reward
from reward_service.route_table import Access, RouteEntry, RouteTable
from reward_service.routes import Service, add_routes
from reward_service.settings import Settings
from shared import schemas


def create_app(
    settings: Settings | None = None,
    rewards: Mapping[str, Reward] | None = None,
    dialects: Sequence[Dialect] = DIALECTS,
    *,
    wait_until_loaded: bool = False,
) -> FastAPI:
    """Build the application. `rewards` replaces the configured ones: `create_app(rewards={"fake": …})`.

    With `wait_until_loaded` the application does not start before the rewards are loaded, or fails to; else requests
    get 503 meanwhile.
    """
    settings = settings or Settings()
    metrics = Metrics()
    lifecycle = Lifecycle(
        settings, metrics, rewards, [dialect.name for dialect in dialects if dialect is not native.DIALECT]
    )
    app = FastAPI(
        title="remote-rewards",
        version=own_version(),
        lifespan=_lifespan(lifecycle, wait_until_loaded=wait_until_loaded),
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    app.state.lifecycle, app.state.metrics = lifecycle, metrics
    routes = RouteTable(app.router, default=native.DIALECT, is_served=partial(_is_served, lifecycle))
    add_routes(app, routes, Service(settings, lifecycle, metrics, own_version()), dialects)
    render_error = partial(_render_error, routes, metrics)
    _add_middleware(app, routes, settings, lifecycle, metrics, render_error)
    _add_error_handlers(app, render_error)
    return app


def own_version() -> str:
    """Return the version of the installed distribution."""
    try:
        return version("remote-rewards")
    except PackageNotFoundError:
        return "0+unknown"


def _lifespan(lifecycle: Lifecycle, *, wait_until_loaded: bool) -> Any:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with lifecycle.running():
            if wait_until_loaded:
                await lifecycle.loaded()
            yield

    return lifespan


def _add_middleware(
    app: FastAPI,
    routes: RouteTable,
    settings: Settings,
    lifecycle: Lifecycle,
    metrics: Metrics,
    render_error: middleware.ErrorRenderer,
) -> None:
    """Add the middlewares from the innermost to the outermost."""
    app.add_middleware(
        middleware.BodyLimitMiddleware, limit_bytes=settings.max_body_bytes, timeout_s=settings.body_timeout_s
    )
    app.add_middleware(
        middleware.LoadSheddingMiddleware,
        routes=routes,
        check_deadline=lifecycle.check_deadline,
        render_error=render_error,
    )
    app.add_middleware(
        middleware.AuthenticationMiddleware,
        routes=routes,
        keys=partial(required_keys, settings, lifecycle),
        render_error=render_error,
    )
    app.add_middleware(middleware.MetricsMiddleware, routes=routes, metrics=metrics)
    app.add_middleware(middleware.RequestIdMiddleware)


def _is_served(lifecycle: Lifecycle, dialect: Dialect) -> bool:
    return dialect is native.DIALECT or dialect.name in lifecycle.dialects


def required_keys(settings: Settings, lifecycle: Lifecycle, entry: RouteEntry | None) -> Sequence[str] | None:
    """Return the keys of which a path needs one; None if it is open. Unknown paths (None) need an API key, too."""
    access = Access.API_KEY if entry is None else entry.access
    if access is Access.ADMIN and settings.admin_key is not None:
        return [settings.admin_key.get_secret_value()]
    if entry is not None and entry.dialect.name in lifecycle.dialects:
        # while loading, `open` is unknown, and the answer is 503 with or without a key
        access = Access.OPEN if lifecycle.loading or lifecycle.dialects[entry.dialect.name].open else access
    return None if access is Access.OPEN or not lifecycle.api_keys else lifecycle.api_keys


def _render_error(
    routes: RouteTable, metrics: Metrics, error: RewardServiceError, connection: HTTPConnection
) -> Response:
    """Render an error in the form of the path's dialect. On a scoring route it counts as a rejection."""
    entry = routes.find_for(connection.scope)
    if entry is not None and entry.scoring is not None:
        metrics.record_rejection(error.code)
    return routes.dialect_of(connection.scope).render_error(error, connection)


def _add_error_handlers(app: FastAPI, render_error: middleware.ErrorRenderer) -> None:
    async def handle_error(request: Request, error: Exception) -> Response:
        response = render_error(_as_service_error(error, request.url.path), request)
        if isinstance(error, HTTPException):
            response.headers.update(error.headers or {})
        if getattr(error, "closes_connection", False):
            response.headers["Connection"] = "close"
        # an internal error is handled outside of the middleware that sets this header on all other responses
        response.headers[schemas.REQUEST_ID_HEADER] = request.state.request_id
        return response

    for kind in (RewardServiceError, HTTPException, Exception):
        app.add_exception_handler(kind, handle_error)


def _as_service_error(error: Exception, path: str) -> RewardServiceError:
    """Return our own error for any exception. An unexpected one is a bug: starlette logs its traceback."""
    if isinstance(error, RewardServiceError):
        return error
    if isinstance(error, HTTPException):
        message = f"{path}: {error.detail}; /docs lists the paths"
        return HttpError(message, status=error.status_code, title=str(error.detail))
    return InternalError(f"internal error, {type(error).__name__}; the service's log has the traceback")

"""Put the service together: settings and rewards in, an ASGI application out. Importing it does nothing."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fastapi import FastAPI, Request
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.responses import Response

from reward_service import middleware
from reward_service.errors import InternalError, RewardServiceError
from reward_service.lifecycle import Lifecycle
from reward_service.metrics import Metrics
from reward_service.problem_details import problem_response
from reward_service.rewards.base import Reward
from reward_service.routes import add_routes
from reward_service.settings import Settings
from shared import schemas
from shared.schemas import ContentPart, Message, ScoreRequest


def create_app(settings: Settings | None = None, rewards: Mapping[str, Reward] | None = None) -> FastAPI:
    """Make the application. `rewards` takes the place of the configured ones: `create_app(rewards={"fake": …})`."""
    settings = settings or Settings()
    metrics = Metrics()
    lifecycle = Lifecycle(settings, metrics, rewards)
    app = FastAPI(
        title="remote-rewards", version=own_version(), lifespan=_lifespan(lifecycle), docs_url=None, redoc_url=None
    )
    app.state.lifecycle = lifecycle
    add_routes(app.router, lifecycle, own_version())
    app.add_exception_handler(RewardServiceError, _handle_service_error)
    app.add_exception_handler(HTTPException, _handle_http_error)
    app.add_exception_handler(Exception, _handle_internal_error)
    app.add_middleware(
        middleware.BodyLimitMiddleware, limit_bytes=settings.max_body_bytes, timeout_s=settings.body_timeout_s
    )
    app.add_middleware(middleware.LoadSheddingMiddleware, check_deadline=lifecycle.check_deadline, metrics=metrics)
    app.add_middleware(middleware.AuthenticationMiddleware, keys=partial(keys_of, lifecycle))
    app.add_middleware(middleware.MetricsMiddleware, metrics=metrics)
    app.add_middleware(middleware.RequestIdMiddleware)  # the last added is the outermost
    _describe_body(app)
    return app


def keys_of(lifecycle: Lifecycle, path: str) -> Sequence[str] | None:
    """Give the keys that open a path; None for one that is open to all."""
    admin_key = lifecycle._settings.admin_key
    if path.strip() == schemas.RELOAD_PATH and admin_key is not None:  # a route matches before a line's end, too
        return [admin_key.get_secret_value()]
    return None if path in middleware.OPEN_PATHS or not lifecycle.api_keys else lifecycle.api_keys


def own_version() -> str:
    """Give the installed version."""
    try:
        return version("remote-rewards")
    except PackageNotFoundError:
        return "0+unknown"


def _lifespan(lifecycle: Lifecycle) -> Any:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with lifecycle.running():
            yield

    return lifespan


async def _handle_service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RewardServiceError)
    if request.url.path == schemas.SCORE_PATH:  # who asks whether it is ready is not turned away
        request.app.state.lifecycle._metrics.record_rejection(error.code)
    return problem_response(error, request.state.request_id)


async def _handle_internal_error(request: Request, error: Exception) -> Response:
    """Own up to a fault of ours: it is logged with its trace, and asking again would find it again."""
    fault = InternalError(f"a fault of the service, {type(error).__name__}; its log says more")
    return problem_response(fault, request.state.request_id)


class _HttpProblem(RewardServiceError):
    """What the framework itself refuses: an unknown path, a wrong method."""

    def __init__(self, error: HTTPException, path: str) -> None:
        super().__init__(f"{path}: {error.detail}; see /docs for what there is")
        self.__dict__.update(status=error.status_code, code="http", title=str(error.detail))


async def _handle_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    response = problem_response(_HttpProblem(error, request.url.path), request.state.request_id)
    response.headers.update(error.headers or {})
    return response


def _describe_body(app: FastAPI) -> None:
    """Add the schema of the body, which the route reads itself for speed, to the OpenAPI document."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        template = "#/components/schemas/{model}"
        models = [(ScoreRequest, "validation"), (Message, "validation"), (ContentPart, "validation")]
        _, schemas = models_json_schema(models, ref_template=template)  # type: ignore[arg-type]
        document["components"]["schemas"] |= schemas["$defs"]
        return document

    app.openapi = openapi  # type: ignore[method-assign]

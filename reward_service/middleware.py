"""Plain ASGI middleware: request id, metrics and access log, API key, load shedding, body limit.

Scored texts are never logged. Errors are rendered by a function passed in, in the form of the path's dialect.
"""

import asyncio
import hmac
import logging
import math
import re
import time
import uuid
from collections.abc import Callable, Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reward_service.errors import (
    BadContentType,
    BodyTooLarge,
    BodyTooSlow,
    Overloaded,
    RewardServiceError,
    Unauthenticated,
)
from reward_service.metrics import Metrics
from reward_service.route_table import RouteEntry, RouteTable
from shared import schemas

log = logging.getLogger("reward_service.access")
REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
MAX_TIMEOUT_S = 3600.0
"""Longest time that a request may take, and the default of one that states none."""
ErrorRenderer = Callable[[RewardServiceError, HTTPConnection], Response]


class RequestIdMiddleware:
    """Assigns each request an id: the client's if it is well-formed, else a new one. Names itself in each response."""

    def __init__(self, app: ASGIApp) -> None:
        self.app, self.instance = app, uuid.uuid4().hex[:12]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Set `state.request_id` and the response headers."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        client_id = Headers(scope=scope).get(schemas.REQUEST_ID_HEADER, "")
        request_id = client_id if REQUEST_ID.fullmatch(client_id) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers[schemas.REQUEST_ID_HEADER] = request_id
                headers[schemas.INSTANCE_HEADER] = self.instance
            await send(message)

        await self.app(scope, receive, send_with_id)


class MetricsMiddleware:
    """Counts and logs each request with its route, status and latency."""

    def __init__(self, app: ASGIApp, routes: RouteTable, metrics: Metrics) -> None:
        self.app, self.routes, self.metrics = app, routes, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Measure from the request's head to the end of the response."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, started_s = 500, time.monotonic()

        async def send_noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with self.metrics.inflight.track_inprogress():
            try:
                await self.app(scope, receive, send_noting)
            finally:
                self._record(scope, status, time.monotonic() - started_s)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        entry = self.routes.find_for(scope)
        route = "other" if entry is None else entry.path  # unknown paths must not add time series
        self.metrics.record_request(route, status, seconds)
        level = logging.DEBUG if entry is not None and entry.quiet else logging.INFO
        fields = {"route": route, "status": status, "ms": round(seconds * 1000, 1)}
        log.log(level, "%s %s", route, status, extra={"request_id": scope["state"]["request_id"], **fields})


class AuthenticationMiddleware:
    """Requires one of the keys of a path. `keys` returns them, or None for a path that is open to everyone."""

    def __init__(
        self,
        app: ASGIApp,
        routes: RouteTable,
        keys: Callable[[RouteEntry | None], Sequence[str] | None],
        render_error: ErrorRenderer,
    ) -> None:
        self.app, self.routes, self.keys, self.render_error = app, routes, keys, render_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 401."""
        entry = self.routes.find_for(scope) if scope["type"] == "http" else None
        keys = self.keys(entry) if scope["type"] == "http" else None
        if keys is None or _has_key(scope, keys):
            await self.app(scope, receive, send)
            return
        message = "send one of the service's keys as `Authorization: Bearer <key>`"
        if entry is not None and not entry.dialect.sends_keys:
            message += (
                f"; for a client that cannot, rewards.yaml has `dialects: {{{entry.dialect.name}: {{open: true}}}}`"
            )
        response = self.render_error(Unauthenticated(message), HTTPConnection(scope))
        response.headers["WWW-Authenticate"] = "Bearer"
        await response(scope, receive, send)


def _has_key(scope: Scope, keys: Sequence[str]) -> bool:
    scheme, _, credentials = Headers(scope=scope).get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        return False
    # every key is compared, each in constant time, so that the time taken reveals nothing
    return sum(hmac.compare_digest(credentials.encode(), key.encode()) for key in keys) > 0


class LoadSheddingMiddleware:
    """Sets the deadline of each scoring request, and rejects those that no queue can serve in time, before their body.

    A rejected request may ask for cached texts only; to know that, its body would have to be read.
    """

    def __init__(
        self, app: ASGIApp, routes: RouteTable, check_deadline: Callable[[float], None], render_error: ErrorRenderer
    ) -> None:
        self.app, self.routes, self.check_deadline, self.render_error = app, routes, check_deadline, render_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Set `state.deadline_s` and pass the request on, or answer `Overloaded`."""
        entry = self.routes.find_for(scope) if scope["type"] == "http" else None
        if entry is not None and entry.scoring is not None and scope["method"] == "POST":
            timeout = Headers(scope=scope).get(schemas.TIMEOUT_HEADER)
            deadline_s = scope["state"]["deadline_s"] = time.monotonic() + parse_timeout_header(timeout)
            try:
                if not entry.scoring.waits_when_full:
                    self.check_deadline(deadline_s)
            except Overloaded as error:
                await self.render_error(error, HTTPConnection(scope))(scope, receive, send)
                return
        await self.app(scope, receive, send)


def parse_timeout_header(header: str | None) -> float:
    """Return the client's remaining time in seconds: `MAX_TIMEOUT_S` at most, and if the header is missing or wrong."""
    try:
        timeout_s = float(header or "inf") / 1000
    except ValueError:
        return MAX_TIMEOUT_S
    return MAX_TIMEOUT_S if math.isnan(timeout_s) else min(MAX_TIMEOUT_S, max(0.0, timeout_s))


class BodyLimitMiddleware:
    """Rejects a body that is over the limit (declared or counted), compressed, or late."""

    def __init__(self, app: ASGIApp, limit_bytes: int, timeout_s: float) -> None:
        self.app, self.limit_bytes, self.timeout_s = app, limit_bytes, timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with a `receive` that raises the error in the endpoint, before it has read any byte."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers, received_bytes, complete = Headers(scope=scope), 0, False
        deadline_s = time.monotonic() + self.timeout_s

        async def receive_limited() -> Message:
            nonlocal received_bytes, complete
            self._check_headers(headers)
            try:
                async with asyncio.timeout_at(None if complete else deadline_s):
                    message = await receive()
            except TimeoutError:
                raise BodyTooSlow(f"the body has not arrived within {self.timeout_s:g} s") from None
            received_bytes += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if received_bytes > self.limit_bytes:
                raise self._too_large()
            return message

        await self.app(scope, receive_limited, send)

    def _check_headers(self, headers: Headers) -> None:
        declared = headers.get("Content-Length", "0")
        if headers.get("Content-Encoding", "identity") != "identity":
            raise BadContentType("send the body uncompressed")
        if declared.isdigit() and int(declared) > self.limit_bytes:
            raise self._too_large()

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"a request may have {self.limit_bytes} bytes; split the texts into several requests")

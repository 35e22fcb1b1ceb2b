"""What happens to every request, as plain ASGI: an id, a key, a bound on its body, a count and a log line.

Texts never reach a log; what does is cleaned of control characters.
"""

import asyncio
import hmac
import logging
import re
import time
import uuid
from collections.abc import Callable, Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reward_service.batching.admission import parse_timeout_header
from reward_service.errors import BadContentType, BodyTooLarge, BodyTooSlow, Overloaded, Unauthenticated
from reward_service.metrics import Metrics
from reward_service.problem_details import problem_response
from shared import schemas

log = logging.getLogger("reward_service.access")
OPEN_PATHS = {schemas.LIVE_PATH, schemas.READY_PATH, schemas.HEALTH_PATH, "/", "/docs", "/openapi.json"}
"""What anybody may read: that the service is there, and how it is used; the same of every service."""
PATHS = OPEN_PATHS | {schemas.SCORE_PATH, schemas.REWARDS_PATH, schemas.METRICS_PATH, schemas.RELOAD_PATH}
REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,64}")


class RequestIdMiddleware:
    """Give each request an id: the caller's, if it is a plain one, or a new one."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Put the id into the scope and into the answer."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get(schemas.REQUEST_ID_HEADER, "")
        request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[schemas.REQUEST_ID_HEADER] = request_id
            await send(message)

        await self.app(scope, receive, send_with_id)


class MetricsMiddleware:
    """Count and log each request by its route, status and time."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Measure from the first byte of the request to the end of the answer."""
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
                self._note(scope, status, time.monotonic() - started_s)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = scope["path"] if scope["path"] in PATHS else "other"  # what somebody makes up adds no series
        self.metrics.requests.labels(route, status).inc()
        self.metrics.request_seconds.labels(route).observe(seconds)
        level = logging.DEBUG if route in OPEN_PATHS or route == schemas.METRICS_PATH else logging.INFO
        fields = {"route": route, "status": status, "ms": round(seconds * 1000, 1)}
        log.log(level, "%s %s", route, status, extra={"request_id": scope["state"]["request_id"], **fields})


class AuthenticationMiddleware:
    """Let a request pass that carries one of the keys that open its path; where that is None, let all pass."""

    def __init__(self, app: ASGIApp, keys: Callable[[str], Sequence[str] | None]) -> None:
        self.app, self.keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401 where no key fits."""
        keys = self.keys(scope["path"]) if scope["type"] == "http" else None
        if keys is None or _has_key(scope, keys):
            await self.app(scope, receive, send)
            return
        error = Unauthenticated("send one of the service's keys as `Authorization: Bearer <key>`")
        response = problem_response(error, scope["state"]["request_id"])
        response.headers["WWW-Authenticate"] = "Bearer"
        await response(scope, receive, send)


def _has_key(scope: Scope, keys: Sequence[str]) -> bool:
    scheme, _, given = Headers(scope=scope).get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        return False
    # every key is compared, and each in constant time, so that timing tells nothing
    return sum(hmac.compare_digest(given.encode(), key.encode()) for key in keys) > 0


class LoadSheddingMiddleware:
    """Refuse at the door whoever cannot wait for any of the lines: nothing is spent on its body.

    It may have asked for texts that are known already. To see that, all that is sent would have to be read.
    """

    def __init__(self, app: ASGIApp, check_deadline: Callable[[float], None], metrics: Metrics) -> None:
        self.app, self.check_deadline, self.metrics = app, check_deadline, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 429 where every line is too long for the caller."""
        if scope["type"] == "http" and (scope["method"], scope["path"]) == ("POST", schemas.SCORE_PATH):
            patience = Headers(scope=scope).get(schemas.TIMEOUT_HEADER)
            try:
                self.check_deadline(parse_timeout_header(patience, now_s=time.monotonic()))
            except Overloaded as error:
                self.metrics.record_rejection(error.code)
                await problem_response(error, scope["state"]["request_id"])(scope, receive, send)
                return
        await self.app(scope, receive, send)


class BodyLimitMiddleware:
    """Refuse a body over the limit, declared or counted as it arrives, one that is compressed, and one that is late."""

    def __init__(self, app: ASGIApp, limit_bytes: int, timeout_s: float) -> None:
        self.app, self.limit_bytes, self.timeout_s = app, limit_bytes, timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; a body that is refused raises where it is read, before a byte of it is taken."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers, received, whole = Headers(scope=scope), 0, False
        late_s = time.monotonic() + self.timeout_s

        async def receive_counting() -> Message:
            nonlocal received, whole
            self._refuse(headers)
            try:
                async with asyncio.timeout_at(None if whole else late_s):
                    message = await receive()
            except TimeoutError:
                raise BodyTooSlow(f"the body has not arrived within {self.timeout_s:g} s") from None
            received += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if received > self.limit_bytes:
                raise self._too_large()
            return message

        await self.app(scope, receive_counting, send)

    def _refuse(self, headers: Headers) -> None:
        declared = headers.get("Content-Length", "0")
        if headers.get("Content-Encoding", "identity") != "identity":
            raise BadContentType("send the body uncompressed")
        if declared.isdigit() and int(declared) > self.limit_bytes:
            raise self._too_large()

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"a request may have {self.limit_bytes} bytes; send the texts in several")

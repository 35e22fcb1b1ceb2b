"""uvicorn's HTTP/1.1 protocol with a header timeout, a limit on a head's size and a write timeout.

uvicorn alone waits forever for a request's head and for a client that does not read its response. An `Upgrade` header,
which Java's client sends with each request, is ignored (RFC 9110, 7.8): httptools would drop the body for it.

Uses these private parts of uvicorn, hence the upper bound on its version in pyproject.toml: `HttpToolsProtocol.cycle`,
`.loop`, `.transport` and the callbacks of httptools; `RequestResponseCycle.more_body`, `.response_complete`,
`.disconnected` and `.message_event`. `server.py` uses `Server._captured_signals`.
"""

import asyncio
import re
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADER_TIMEOUT_S = 10.0
"""Time for a request's head to arrive, from its first byte or from the connection's start."""
MAX_HEAD_BYTES = 64 * 1024
"""Largest head, give or take one read from the socket."""
WRITE_TIMEOUT_S = 30.0
"""Time for which a client may leave its response unread before its connection is aborted."""
HEAD_END = b"\r\n\r\n"
UPGRADE_PREFIX = b"\r\nupgrade:"
UPGRADE_HEADER = re.compile(UPGRADE_PREFIX + rb"[^\r\n]*(?=\r\n)", re.IGNORECASE)


class TimeoutHttpProtocol(HttpToolsProtocol):
    """One connection. Closed if a head is late or too large, aborted if the client stops reading."""

    _head_bytes = 0
    _unparsed = b""
    _write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Start the header timeout."""
        super().connection_made(transport)
        self._unanswered: list[Any] = []
        self._head_timer: asyncio.TimerHandle | None = self.loop.call_later(HEADER_TIMEOUT_S, self._close_if_idle)

    def data_received(self, data: bytes) -> None:
        """Parse bytes; stop the header timeout once the head is complete, restart it when another head has begun."""
        if not (self.cycle is not None and self.cycle.more_body):  # the body of a rejected request may still arrive
            self._head_bytes += len(data)
            data, self._unparsed = strip_upgrade_header(self._unparsed + data)
        if data:
            super().data_received(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            self.transport.close()
        elif self._request_active():
            self._cancel_head_timer()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(HEADER_TIMEOUT_S, self._close_if_idle)

    def on_headers_complete(self) -> None:
        """Track every unanswered request: on disconnect uvicorn notifies the last one only."""
        super().on_headers_complete()
        self._head_bytes = 0
        self._unanswered = [*(cycle for cycle in self._unanswered if not cycle.response_complete), self.cycle]

    def on_message_complete(self) -> None:
        """Mark the body as complete, also that of a request rejected before its body arrived."""
        super().on_message_complete()
        if self.cycle is not None:
            self.cycle.more_body = False

    def pause_writing(self) -> None:
        """Start the write timeout: the send buffer is full."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(WRITE_TIMEOUT_S, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop the write timeout: the client reads again."""
        self._cancel_write_timer()
        super().resume_writing()

    def _cancel_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers and mark every unanswered request as disconnected."""
        self._cancel_head_timer()
        self._cancel_write_timer()
        for cycle in self._unanswered:
            cycle.disconnected = True
            cycle.message_event.set()
        super().connection_lost(exc)

    def _request_active(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _cancel_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _close_if_idle(self) -> None:
        self._head_timer = None
        if not self._request_active():
            self.transport.close()


def strip_upgrade_header(data: bytes) -> tuple[bytes, bytes]:
    """Remove the `Upgrade` header from a head.

    Return the bytes to parse now, and the bytes to hold back because they may be the start of that header or of the
    head's end.
    """
    end = data.find(HEAD_END)
    if end >= 0:
        return UPGRADE_HEADER.sub(b"", data[: end + 2]) + data[end + 2 :], b""
    head = UPGRADE_HEADER.sub(b"", data)
    for start in (head.rfind(b"\r\n"), len(head) - 1):
        last = head[start:].lower()
        if start >= 0 and (
            last.startswith(UPGRADE_PREFIX) or UPGRADE_PREFIX.startswith(last) or HEAD_END.startswith(last)
        ):
            return head[:start], head[start:]
    return head, b""

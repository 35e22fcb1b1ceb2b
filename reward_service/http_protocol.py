"""A connection whose request begins too slowly or at too great length, or whose answer is not read, is closed.

uvicorn alone would wait for ever.

An offer to go on in another protocol, which Java's client makes with each request, is passed over (RFC 9110, 7.8): the
parser would give up the body for it.
"""

import asyncio
import re
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADERS_S = 10.0
"""A request's head must be here so long after its first byte, or after the connection was made,"""
HEAD_BYTES = 64 * 1024
"""and be no longer than this, give or take what one read brings."""
UNREAD_S = 30.0
"""A caller who takes nothing of its answer for so long is left: it would hold one of the connections there are."""
END = b"\r\n\r\n"
OFFER = b"\r\nupgrade:"
UPGRADE = re.compile(OFFER + rb"[^\r\n]*(?=\r\n)", re.IGNORECASE)


class TimeoutHttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol with bounds on the time and the bytes that a request's head may take, and on being unread."""

    _head_bytes = 0
    _held = b""
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._cycles: list[Any] = []
        self._late: asyncio.TimerHandle | None = self.loop.call_later(HEADERS_S, self._close)

    def data_received(self, data: bytes) -> None:
        """Wait no longer once the head is here; begin anew where the next one has only begun."""
        if not (self.cycle is not None and self.cycle.more_body):  # what was refused early may still be arriving
            self._head_bytes += len(data)
            data, self._held = without_upgrade(self._held + data)
        if data:
            super().data_received(data)
        if self._head_bytes > HEAD_BYTES:
            self.transport.close()
        elif self._under_way():
            self._stop_waiting()
        elif self._late is None:
            self._late = self.loop.call_later(HEADERS_S, self._close)

    def on_headers_complete(self) -> None:
        """Keep in mind all that is not answered: of a caller that goes uvicorn tells its last request alone."""
        super().on_headers_complete()
        self._head_bytes = 0
        self._cycles = [*(cycle for cycle in self._cycles if not cycle.response_complete), self.cycle]

    def on_message_complete(self) -> None:
        """Note the end of a body, that of a request refused early, too."""
        super().on_message_complete()
        if self.cycle is not None:
            self.cycle.more_body = False

    def pause_writing(self) -> None:
        """Wait for the caller to read on, for a time."""
        super().pause_writing()
        self._unread = self.loop.call_later(UNREAD_S, self.transport.abort)

    def resume_writing(self) -> None:
        """Wait no longer: it does."""
        self._read_on()
        super().resume_writing()

    def _read_on(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._stop_waiting()
        self._read_on()
        for cycle in self._cycles:
            cycle.disconnected = True
            cycle.message_event.set()
        super().connection_lost(exc)

    def _under_way(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _stop_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _close(self) -> None:
        self._late = None
        if not self._under_way():
            self.transport.close()


def without_upgrade(data: bytes) -> tuple[bytes, bytes]:
    """Take the offer out of a head; give what is to be read, and an end that may become the offer or the head's."""
    end = data.find(END)
    if end >= 0:
        return UPGRADE.sub(b"", data[: end + 2]) + data[end + 2 :], b""
    head = UPGRADE.sub(b"", data)
    for start in (head.rfind(b"\r\n"), len(head) - 1):
        last = head[start:].lower()
        if start >= 0 and (last.startswith(OFFER) or OFFER.startswith(last) or END.startswith(last)):
            return head[:start], head[start:]
    return head, b""

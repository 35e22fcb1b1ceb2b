"""A connection whose request begins too slowly or at too great length is closed: uvicorn alone would wait for ever.

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
UPGRADE = re.compile(rb"\r\nupgrade:[^\r\n]*(?=\r\n)", re.IGNORECASE)


class ImpatientProtocol(HttpToolsProtocol):
    """uvicorn's protocol with bounds on the time and the bytes that a request's head may take."""

    _head_bytes = 0

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._late: asyncio.TimerHandle | None = self.loop.call_later(HEADERS_S, self._close)

    def data_received(self, data: bytes) -> None:
        """Wait no longer once the head is here; begin anew where the next one has only begun."""
        rest_of_body = self.cycle is not None and self.cycle.more_body
        super().data_received(data if rest_of_body else without_upgrade(data))
        if self._under_way():
            self._stop_waiting()
            return
        self._head_bytes += 0 if rest_of_body else len(data)  # what was refused early may still be arriving
        if self._head_bytes > HEAD_BYTES:
            self.transport.close()
        elif self._late is None:
            self._late = self.loop.call_later(HEADERS_S, self._close)

    def on_message_complete(self) -> None:
        """Note the end of a body, that of a request refused early, too."""
        super().on_message_complete()
        if self.cycle is not None:
            self.cycle.more_body = False

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _under_way(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _stop_waiting(self) -> None:
        self._head_bytes = 0
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _close(self) -> None:
        self._late = None
        if not self._under_way():
            self.transport.close()


def without_upgrade(data: bytes) -> bytes:
    """Take the offer out of a head; what follows the head stays as it is."""
    found = UPGRADE.search(data, 0, data.find(b"\r\n\r\n") + 2)
    return data if found is None else data[: found.start()] + data[found.end() :]

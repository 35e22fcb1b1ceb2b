"""A TCP proxy in front of a real service that injects the faults of networks, proxies and bugs into responses.

A fault is a function from the service's response, head and body, to the bytes that are sent instead. Faults are
injected in order, one for each scoring request; after the last one, responses pass unchanged.
"""

import asyncio
import json
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from socket import SO_LINGER, SOL_SOCKET
from urllib.parse import urlsplit

Fault = Callable[[bytes], tuple[bytes, bool]]
"""Takes a response; returns the bytes to send, and whether the connection is then reset."""
SCORE = b"POST /v1/score"


class FaultProxy:
    """Forwards one request per connection."""

    def __init__(self, upstream: str, faults: Iterator[Fault | None]) -> None:
        parts = urlsplit(upstream)
        self._upstream, self._faults = (parts.hostname, parts.port), faults
        self.scored = 0
        """Number of scoring requests."""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one request, and inject the next fault into the response to a scoring request."""
        try:
            request = await read_message(reader)
        except asyncio.IncompleteReadError:  # a connection that was opened in advance and not used
            writer.close()
            return
        response, fault = await self._forward(request), None
        if request.startswith(SCORE):
            self.scored += 1
            fault = next(self._faults, None)
        sent, reset = fault(response) if fault else (response, False)
        writer.write(sent)
        await writer.drain()
        if reset:
            writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()

    async def _forward(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(*self._upstream)
        writer.write(request)
        response = await read_message(reader)
        writer.close()
        head, _, body = response.partition(b"\r\n\r\n")
        return head + b"\r\nConnection: close\r\n\r\n" + body


async def read_message(reader: asyncio.StreamReader) -> bytes:
    """Read one HTTP message by its Content-Length."""
    head = await reader.readuntil(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return head + await reader.readexactly(int(lengths[0].split(b":")[1]) if lengths else 0)


@contextmanager
def fault_proxy(
    upstream: str, *faults: Fault, schedule: Iterator[Fault | None] | None = None, host: str = "127.0.0.1"
) -> Iterator[tuple[str, FaultProxy]]:
    """Run a proxy in a thread. Yields its URL and itself. `schedule` has a fault, or None, for each scoring request."""
    proxy = FaultProxy(upstream, iter(faults) if schedule is None else schedule)
    loop, started = asyncio.new_event_loop(), threading.Event()
    ports: list[int] = []

    async def serve() -> None:
        server = await asyncio.start_server(proxy.handle, host, 0)
        ports.append(server.sockets[0].getsockname()[1])
        started.set()

    thread = threading.Thread(target=lambda: (loop.run_until_complete(serve()), loop.run_forever()), daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield f"http://{host}:{ports[0]}", proxy
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


def reset_at(byte: int) -> Fault:
    """Reset the connection after this many bytes."""
    return lambda response: (response[:byte], True)


def closed_at(byte: int) -> Fault:
    """Close the connection after this many bytes."""
    return lambda response: (response[:byte], False)


def status(code: int, *headers: str, kind: str = "text/html", body: str = "<html>") -> Fault:
    """Return another status, as a proxy would."""
    head = [f"HTTP/1.1 {code} X", f"Content-Type: {kind}", f"Content-Length: {len(body)}", *headers]
    return lambda _: (("\r\n".join(head) + "\r\n\r\n" + body).encode(), False)


def body(text: str) -> Fault:
    """Return 200 with another body."""
    return status(200, kind="application/json", body=text)


def rewritten(change: Callable[[dict], object]) -> Fault:
    """Change every reward of the response in place."""

    def fault(response: bytes) -> tuple[bytes, bool]:
        content = json.loads(response.partition(b"\r\n\r\n")[2])
        for reward in content["rewards"].values():
            change(reward)
        return body(json.dumps(content))(response)

    return fault


def replaced(old: str, new: str) -> Fault:
    """Replace a substring of the body."""
    return lambda response: body(response.partition(b"\r\n\r\n")[2].decode().replace(old, new))(response)


def wrong_length(excess: int) -> Fault:
    """Send a Content-Length that exceeds the length of the body."""

    def fault(response: bytes) -> tuple[bytes, bool]:
        head, _, content = response.partition(b"\r\n\r\n")
        lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"content-length")]
        return b"\r\n".join([*lines, b"Content-Length: %d" % (len(content) + excess)]) + b"\r\n\r\n" + content, False

    return fault

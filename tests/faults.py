"""A TCP relay before a real service that spoils answers: what a network, a proxy or a bug does to them.

A fault is a function from the service's whole answer, head and body, to what is sent instead; `RESET` cuts the
connection instead of closing it. Faults are taken in order, one for each scoring request; past them all goes through.
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
"""From an answer to (bytes to send, whether the connection is then reset)."""
SCORE = b"POST /v1/score"


class FaultProxy:
    """Relays one request a connection."""

    def __init__(self, upstream: str, faults: Iterator[Fault | None]) -> None:
        parts = urlsplit(upstream)
        self._upstream, self._faults = (parts.hostname, parts.port), faults
        self.scored = 0
        """Scoring requests that came."""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request, spoilt if it is a fault's turn."""
        try:
            request = await read_message(reader)
        except asyncio.IncompleteReadError:  # a connection made in advance and not used
            writer.close()
            return
        answer, fault = await self._ask(request), None
        if request.startswith(SCORE):
            self.scored += 1
            fault = next(self._faults, None)
        sent, reset = fault(answer) if fault else (answer, False)
        writer.write(sent)
        await writer.drain()
        if reset:
            writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()

    async def _ask(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(*self._upstream)
        writer.write(request)
        answer = await read_message(reader)
        writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        return head + b"\r\nConnection: close\r\n\r\n" + body


async def read_message(reader: asyncio.StreamReader) -> bytes:
    """Read one HTTP message by its declared length."""
    head = await reader.readuntil(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return head + await reader.readexactly(int(lengths[0].split(b":")[1]) if lengths else 0)


@contextmanager
def spoiling(
    upstream: str, *faults: Fault, every: Iterator[Fault | None] | None = None
) -> Iterator[tuple[str, FaultProxy]]:
    """Run a proxy on a thread; give its address and itself. `every` names a fault, or None, for each request."""
    proxy = FaultProxy(upstream, iter(faults) if every is None else every)
    loop, started = asyncio.new_event_loop(), threading.Event()
    address: list[int] = []

    async def serve() -> None:
        server = await asyncio.start_server(proxy.handle, "127.0.0.1", 0)
        address.append(server.sockets[0].getsockname()[1])
        started.set()

    thread = threading.Thread(target=lambda: (loop.run_until_complete(serve()), loop.run_forever()), daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield f"http://127.0.0.1:{address[0]}", proxy
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


def reset_at(byte: int) -> Fault:
    """Cut the connection after so many bytes."""
    return lambda answer: (answer[:byte], True)


def closed_at(byte: int) -> Fault:
    """Close the connection in order, but early."""
    return lambda answer: (answer[:byte], False)


def status(code: int, *headers: str, kind: str = "text/html", body: str = "<html>") -> Fault:
    """Answer as something else would."""
    head = [f"HTTP/1.1 {code} X", f"Content-Type: {kind}", f"Content-Length: {len(body)}", *headers]
    return lambda _: (("\r\n".join(head) + "\r\n\r\n" + body).encode(), False)


def body(text: str) -> Fault:
    """Answer 200 with another body."""
    return status(200, kind="application/json", body=text)


def rewritten(change: Callable[[dict], object]) -> Fault:
    """Change what the service said of a reward."""

    def fault(answer: bytes) -> tuple[bytes, bool]:
        content = json.loads(answer.partition(b"\r\n\r\n")[2])
        for reward in content["rewards"].values():
            change(reward)
        return body(json.dumps(content))(answer)

    return fault


def replaced(old: str, new: str) -> Fault:
    """Write something else where something stood in the body."""
    return lambda answer: body(answer.partition(b"\r\n\r\n")[2].decode().replace(old, new))(answer)


def declared(length: int) -> Fault:
    """Lie about the length of the body."""

    def fault(answer: bytes) -> tuple[bytes, bool]:
        head, _, content = answer.partition(b"\r\n\r\n")
        lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"content-length")]
        return b"\r\n".join([*lines, b"Content-Length: %d" % (len(content) + length)]) + b"\r\n\r\n" + content, False

    return fault

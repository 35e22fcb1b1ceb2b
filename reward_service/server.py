"""Run the application: open the port, serve, drain, and end with the right exit code."""

import errno
import logging
import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable
from types import FrameType

import uvicorn

from reward_service.app import create_app
from reward_service.errors import ConfigError
from reward_service.http_protocol import TimeoutHttpProtocol
from reward_service.lifecycle import Lifecycle
from reward_service.process import freeze_and_trim_heap
from reward_service.settings import Settings

INSTEAD = {
    errno.EADDRINUSE: "stop what uses it, or choose another with --port",
    errno.EACCES: "choose another with --port",
}
LAST_S = 3.0
"""After the time of grace, what ends in order has so much more."""


class Server(uvicorn.Server):
    """uvicorn, which tells the rewards that it is about to drain: readiness turns before anything else does."""

    def __init__(self, config: uvicorn.Config, lifecycle: Lifecycle) -> None:
        super().__init__(config)
        self._life = lifecycle

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain, from the moment the port is open; a second signal forces."""
        if self._life.draining:
            os._exit(1)
        self._life.draining = True
        _end_after(self._life.settings.shutdown_timeout_s + LAST_S)
        super().handle_exit(sig, frame)
        self._captured_signals.clear()  # not raised again at the end: being told to stop is no failure


def _end_after(seconds: float, code: int = 0) -> None:
    """End the process then, whatever still hangs: somebody's code may wait for ever and hear nothing."""
    last = threading.Timer(seconds, _leave, [code])
    last.daemon = True
    last.start()


def run(settings: Settings, listener: socket.socket) -> None:
    """Serve until told to stop; accepted work is finished first. Raises what kept the rewards from loading."""
    app = create_app(settings)
    lifecycle: Lifecycle = app.state.lifecycle
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=math.ceil(settings.shutdown_timeout_s),
        server_header=False,
        proxy_headers=False,  # nobody asks where a request came from
        http=TimeoutHttpProtocol,
        limit_concurrency=settings.max_connections + 1,  # whoever asks is counted, too
    )
    server = Server(config, lifecycle)
    lifecycle.on_failure = lambda: setattr(server, "should_exit", True)
    lifecycle.on_ready = lifecycle.on_retired = freeze_and_trim_heap
    host, port = listener.getsockname()[:2]
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, server.handle_exit)
    if hasattr(signal, "SIGHUP"):  # not on Windows
        signal.signal(signal.SIGHUP, lambda *_: lifecycle.reload_soon())
    where = f"[{host}]" if ":" in host else host
    print(f"reward-service: listening at http://{where}:{port} (loading models)", file=sys.stderr, flush=True)
    server.run(sockets=[listener])
    if lifecycle.failure is not None:
        _end_after(LAST_S, code=2)  # what has failed may be a device that never ends
        raise lifecycle.failure
    leave_behind(threading.enumerate())


def leave_behind(threads: Iterable[threading.Thread], patience_s: float = 1.0) -> None:
    """End the process now if a thread does not end: a function that hangs, or a model that is still being loaded."""
    end_s = time.monotonic() + patience_s
    for thread in threads:
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join(max(0.0, end_s - time.monotonic()))
            if thread.is_alive():
                _leave()


def _leave(code: int = 0) -> None:
    logging.shutdown()
    os._exit(code)


def listen(host: str, port: int) -> socket.socket:
    """Open the port before anything slow is done. Raises `ConfigError` if it is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sends at once (TCP_NODELAY) only where the protocol is named; else each small answer waits up to 40 ms
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        todo = INSTEAD.get(error.errno or 0, "choose another with --host")
        raise ConfigError(f"cannot listen at {host}:{port} ({error.strerror}); {todo}") from error
    return listener

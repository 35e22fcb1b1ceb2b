"""Run the application: open the port, serve, drain, and exit with the right code."""

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
from reward_service.process import freeze_and_trim_heap, tune_malloc
from reward_service.settings import Settings

BIND_HINTS = {
    errno.EADDRINUSE: "stop the program that uses it, or choose another port with --port",
    errno.EACCES: "choose another port with --port",
}
KEEP_ALIVE_S = 10
"""Time for which an idle connection is kept: longer than clients do, so that they do not send into a closing one."""
EXIT_MARGIN_S = 3.0
"""Time after `shutdown_timeout_s` for an orderly exit, before the process is ended by force."""


class Server(uvicorn.Server):
    """A uvicorn server that starts draining at the first signal, before uvicorn closes anything."""

    def __init__(self, config: uvicorn.Config, lifecycle: Lifecycle, shutdown_timeout_s: float) -> None:
        super().__init__(config)
        self._lifecycle, self._shutdown_timeout_s = lifecycle, shutdown_timeout_s

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Print the address as soon as connections are accepted."""
        await super().startup(sockets)
        for listener in sockets or []:
            host, port = listener.getsockname()[:2]
            url_host = f"[{host}]" if ":" in host else host
            message = f"reward-service: listening at http://{url_host}:{port} (loading models)"
            print(message, file=sys.stderr, flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start draining; a second signal ends the process at once. Valid from the moment the port is open."""
        if self._lifecycle.draining:
            os._exit(1)
        self._lifecycle.draining = True
        _exit_after(self._shutdown_timeout_s + EXIT_MARGIN_S)
        super().handle_exit(sig, frame)
        self._captured_signals.clear()  # else uvicorn raises them again at its end; a requested stop is no failure


def _exit_after(seconds: float, code: int = 0) -> None:
    """End the process after a delay even if a thread hangs: user code may block forever and ignore cancellation."""
    timer = threading.Timer(seconds, _exit_now, [code])
    timer.daemon = True
    timer.start()


def run(settings: Settings, listener: socket.socket) -> None:
    """Serve until stopped; finish accepted requests first. Raise the error that kept the rewards from loading."""
    tune_malloc()
    app = create_app(settings)
    lifecycle: Lifecycle = app.state.lifecycle
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=math.ceil(settings.shutdown_timeout_s),
        server_header=False,
        proxy_headers=False,  # the client's address is not used
        http=TimeoutHttpProtocol,
        limit_concurrency=settings.max_connections + 1,  # uvicorn counts the connection that it is about to refuse
    )
    server = Server(config, lifecycle, settings.shutdown_timeout_s)
    lifecycle.on_failure = lambda: setattr(server, "should_exit", True)
    lifecycle.on_ready = lifecycle.on_retired = freeze_and_trim_heap
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, server.handle_exit)
    if hasattr(signal, "SIGHUP"):  # not on Windows
        signal.signal(signal.SIGHUP, lambda *_: lifecycle.reload_soon())
    server.run(sockets=[listener])
    if lifecycle.failure is not None:
        _exit_after(EXIT_MARGIN_S, code=2)  # the device that failed may hang
        raise lifecycle.failure
    exit_despite_threads(threading.enumerate())


def exit_despite_threads(threads: Iterable[threading.Thread], timeout_s: float = 1.0) -> None:
    """End the process if a thread outlives `timeout_s`: a function that hangs, or a model that is still loading."""
    deadline_s = time.monotonic() + timeout_s
    for thread in threads:
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join(max(0.0, deadline_s - time.monotonic()))
            if thread.is_alive():
                _exit_now()


def _exit_now(code: int = 0) -> None:
    logging.shutdown()
    os._exit(code)


def listen(host: str, port: int) -> socket.socket:
    """Bind the port before anything slow is done. Raise `ConfigError` if it cannot be bound."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sets TCP_NODELAY only if the protocol is named; without it a small response is delayed by up to 40 ms
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        hint = BIND_HINTS.get(error.errno or 0, "choose another address with --host")
        raise ConfigError(f"cannot listen at {host}:{port} ({error.strerror}); {hint}") from error
    return listener

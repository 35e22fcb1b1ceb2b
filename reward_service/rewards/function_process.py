"""One worker process of a reward function: start it, call it, end it. The service imports no code of a user."""

import asyncio
import contextlib
import itertools
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Self

from reward_service.errors import ConfigError
from reward_service.rewards import function_frames as frames
from reward_service.rewards import function_worker
from reward_service.rewards.function_call import CallResult
from reward_service.rewards.function_frames import Ready, Start

START_TIMEOUT_S = 120.0
"""Longest time for a function's module to be imported."""
CANCEL_GRACE_S = 1.0
"""Time for an async call to end after it was cancelled."""
ASYNC_CALLS = 256
"""Largest number of concurrent calls of an async function in one worker."""


class CallTimeout(Exception):
    """The function did not return in time, on its own account."""


class WorkerLost(Exception):
    """The process ended during a call, by itself or because a call did not return in time."""

    def __init__(self, reason: str, *, shared: bool) -> None:
        super().__init__(reason)
        self.shared = shared
        """Whether other calls were running, any of which may have been the cause."""


class Worker:
    """A worker process that has imported its function. Used from one event loop; `launch` from any thread."""

    def __init__(self, process: "subprocess.Popen[bytes]", connection: socket.socket, ready: Ready) -> None:
        self.ready = ready
        self.calls = 0
        """Number of calls that hold this worker, kept by the pool."""
        self._process, self._connection = process, connection
        self._writer: asyncio.StreamWriter | None = None
        self._connecting = asyncio.Lock()
        self._reading: asyncio.Task[None] | None = None
        self._numbers = itertools.count(1)
        self._pending: dict[int, asyncio.Future[CallResult]] = {}
        self._alive = True

    @classmethod
    def launch(cls, start: Start) -> Self:
        """Start a process and wait until it has imported the function. Raise `ConfigError` with the reason if not."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = _spawn(theirs)
        try:
            ours.settimeout(START_TIMEOUT_S)
            ours.sendall(frames.encode(0, start))
            with ours.makefile("rb") as stream:
                answer = pickle.loads(frames.read(stream)[1])
            if isinstance(answer, str):
                raise ConfigError(answer)
            ours.setblocking(False)
            return cls(process, ours, answer)
        except BaseException as error:
            ours.close()
            if isinstance(error, TimeoutError):
                error = ConfigError(
                    f"importing {start.object!r} takes more than {START_TIMEOUT_S:g} s: load less on import"
                )
            elif isinstance(error, EOFError | OSError):
                ending = describe_exit(_exit_code(process))
                module = start.object.partition(":")[0]
                error = ConfigError(
                    f"cannot import {start.object!r}: its worker process {ending}; "
                    f"python -c 'import {module}' shows why"
                )
            kill(process)
            process.wait()
            raise error from None

    @property
    def alive(self) -> bool:
        """Return whether the process can be called."""
        return self._alive

    @property
    def capacity(self) -> int:
        """Return how many calls may run at once."""
        return ASYNC_CALLS if self.ready.signature.is_async else 1

    async def connect(self) -> None:
        """Attach the connection to the running loop, unless it is."""
        async with self._connecting:
            if self._writer is None:
                reader, self._writer = await asyncio.open_unix_connection(sock=self._connection)
                self._reading = asyncio.create_task(self._read(reader))

    async def call(self, payload: bytes, limit_s: float, number: int) -> CallResult:
        """Call the function with a pickled `Call`.

        Raise `CallTimeout` after `limit_s` seconds, and `WorkerLost` if the process ends. A process that does not let
        go of a call is killed.
        """
        assert self._writer is not None
        future: asyncio.Future[CallResult] = asyncio.get_running_loop().create_future()
        self._pending[number] = future
        try:
            if not self._alive:
                raise WorkerLost("the worker process had ended", shared=True)
            self._writer.write(frames.frame(number, payload))
            if await _done(future, limit_s):
                return future.result()
            self.cancel(number)
            late = f"a call did not return within {limit_s:.3g} s"
            if self.ready.signature.is_async and await _done(future, CANCEL_GRACE_S):
                future.result()  # raises WorkerLost if another call has ended the process meanwhile
                raise CallTimeout(late)
            shared = len(self._pending) > 1
            self.kill(f"was ended because {late}")
            future.exception()  # mark it as retrieved
            raise WorkerLost(late, shared=True) if shared else CallTimeout(late)
        finally:
            del self._pending[number]

    def next_number(self) -> int:
        """Return the number of a new call."""
        return next(self._numbers)

    def cancel(self, number: int) -> None:
        """Cancel a call of an async function. A sync call goes on."""
        if self._writer is not None and self._alive:
            self._writer.write(frames.frame(number, b""))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        """Hand each answer to its call, until the process ends."""
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                number, length = frames.HEADER.unpack(await reader.readexactly(frames.HEADER.size))
                if length > frames.MAX_BYTES:  # not our protocol: the function has written to the connection
                    break
                result = pickle.loads(await reader.readexactly(length))
                if (future := self._pending.get(number)) and not future.done():
                    future.set_result(result)
        self._alive = False
        code = await asyncio.to_thread(_exit_code, self._process)
        self.kill(describe_exit(code))

    async def ended(self) -> None:
        """Wait until the process has ended."""
        if self._reading is not None:
            await asyncio.wait([self._reading], timeout=CANCEL_GRACE_S)

    def kill(self, reason: str = "was ended") -> None:
        """End the process and what it has started, without waiting for that. Its calls raise `WorkerLost`."""
        self._alive = False
        shared = len(self._pending) > 1
        for future in self._pending.values():
            if not future.done():
                future.set_exception(WorkerLost(f"its worker process {reason}", shared=shared))
        kill(self._process)
        if self._writer is not None:
            with contextlib.suppress(RuntimeError):  # its loop is closed
                self._writer.transport.abort()
        else:
            self._connection.close()


async def _done(future: "asyncio.Future[CallResult]", timeout_s: float) -> bool:
    await asyncio.wait([future], timeout=timeout_s)  # unlike wait_for, it leaves the future alone
    return future.done()


def _spawn(connection: socket.socket) -> "subprocess.Popen[bytes]":
    """Start the process in a session of its own: a signal to the service's group must not end it before its calls."""
    number = connection.fileno()
    return subprocess.Popen(
        [sys.executable, "-P", str(Path(function_worker.__file__)), str(number), str(os.getpid())],
        pass_fds=[number],
        stdin=subprocess.DEVNULL,
        stdout=2,  # what the function prints goes to the service's log
        env={**os.environ, function_worker.PATH_VARIABLE: json.dumps(sys.path)},
        start_new_session=True,
    )


def kill(process: "subprocess.Popen[bytes]") -> None:
    """Kill a process and all of its group."""
    if process.poll() is None:  # else its ID may be that of another process
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def _exit_code(process: "subprocess.Popen[bytes]") -> int | None:
    """Return the exit code of a process that is ending; None if it goes on."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(CANCEL_GRACE_S)
    return None


def describe_exit(code: int | None) -> str:
    """Describe how a process ended."""
    match code:
        case None:
            return "closed its connection"
        case -9:
            return "was ended by SIGKILL, as the kernel does when memory is short"
        case int() if code < 0:
            return f"was ended by {signal.Signals(-code).name}"
        case _:
            return f"ended with exit code {code}"

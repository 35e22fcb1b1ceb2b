"""The program of a worker process, which imports a user's reward function and calls it.

It runs `python -P function_worker.py <socket> <service's process ID>` with the service's import path in `WORKER_PATH`.
Calls of a sync function run one after the other on the main thread, where signals work; those of an async function
concurrently on an event loop. The process ends with the service, whatever the function does meanwhile.
"""

import asyncio
import contextlib
import ctypes
import inspect
import json
import os
import pickle
import signal
import socket
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reward_service.rewards.function_call import CallResult, RewardFunction

PR_SET_PDEATHSIG = 1
PATH_VARIABLE = "REWARD_SERVICE_WORKER_PATH"
OOM_SCORE = 500
"""When memory is short, the kernel ends a worker before the service."""


def main() -> None:
    """Serve one function until the service closes the connection."""
    end_with_parent(int(sys.argv[2]))
    sys.path[:] = json.loads(os.environ.pop(PATH_VARIABLE))
    from reward_service.rewards import function_frames

    sys.stdout = os.fdopen(1, "w", buffering=1, encoding="utf-8", errors="replace")  # the service's log, line by line
    connection = socket.socket(fileno=int(sys.argv[1]))
    stream = connection.makefile("rb")
    number, payload = function_frames.read(stream)
    function, answer = load(payload)
    connection.sendall(function_frames.encode(number, answer))
    with contextlib.suppress(EOFError, OSError):
        if function is not None and function.signature.is_async:
            asyncio.run(serve_async(function, connection))
        elif function is not None:
            serve(function, connection, stream)
    os._exit(0)  # the service is gone or has replaced this worker: a thread of the function must not hold it


def end_with_parent(parent: int) -> None:
    """Have the kernel end this process with the service, even while a call never lets go of the interpreter."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE), encoding="ascii")
        if os.getppid() != parent:
            os._exit(0)


def load(payload: bytes) -> "tuple[RewardFunction | None, Any]":
    """Import the function. Return it with its description, or None with the reason that it cannot be served."""
    from reward_service.errors import ConfigError
    from reward_service.rewards.function_call import RewardFunction
    from reward_service.rewards.function_frames import Ready
    from reward_service.rewards.function_signature import without_partials
    from reward_service.rewards.function_source import load_object, revision

    start = pickle.loads(payload)
    try:
        target = load_object(start.object)
        function = RewardFunction(target, independent=start.independent, columns=start.columns)
        description = (inspect.getdoc(without_partials(target)) or "").partition("\n")[0]
        return function, Ready(description, revision(start.object, target), function.signature)
    except ConfigError as error:
        return None, str(error)
    except BaseException as error:
        return None, f"cannot import {start.object!r}: {type(error).__name__}: {error}"


def serve(function: "RewardFunction", connection: socket.socket, stream: Any) -> None:
    """Answer one call after the other."""
    from reward_service.rewards import function_frames

    while True:
        number, payload = function_frames.read(stream)
        if payload:  # a sync call cannot be cancelled
            connection.sendall(answer(number, function.call(payload)))


async def serve_async(function: "RewardFunction", connection: socket.socket) -> None:
    """Answer all calls concurrently."""
    from reward_service.rewards.function_frames import HEADER

    reader, writer = await asyncio.open_unix_connection(sock=connection)
    tasks: dict[int, asyncio.Task[None]] = {}

    def discard(number: int, _: "asyncio.Task[None]") -> None:
        tasks.pop(number, None)

    async def call(number: int, payload: bytes) -> None:
        from reward_service.rewards.function_call import FUNCTION_FAILED, CallResult

        try:
            result = await function.acall(payload)
        except BaseException:
            result = CallResult.failed(pickle.loads(payload).count, FUNCTION_FAILED, "the call was cancelled")
            raise
        finally:
            writer.write(answer(number, result))

    with contextlib.suppress(asyncio.IncompleteReadError):
        while True:
            number, length = HEADER.unpack(await reader.readexactly(HEADER.size))
            if not length and number in tasks:
                tasks[number].cancel()
            elif length:
                task = tasks[number] = asyncio.create_task(call(number, await reader.readexactly(length)))
                task.add_done_callback(partial(discard, number))
    os._exit(0)


def answer(number: int, result: "CallResult") -> bytes:
    """Return a call's answer, or the failure of all rows if the function has logged more than an answer may hold."""
    from reward_service.rewards import function_frames
    from reward_service.rewards.function_call import FUNCTION_FAILED, CallResult

    message = function_frames.encode(number, result)
    if len(message) <= function_frames.MAX_BYTES:
        return message
    reason = f"it logged {len(message)} bytes; at most {function_frames.MAX_BYTES} are allowed"
    return function_frames.encode(number, CallResult.failed(len(result.scores), FUNCTION_FAILED, reason))


if __name__ == "__main__":
    main()

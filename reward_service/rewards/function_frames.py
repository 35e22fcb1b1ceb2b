"""The messages between the service and a worker process: a number, a length and as many bytes of pickle.

The service sends a `Start`, and the worker answers with a `Ready`, or with the reason that it cannot start, as text.
Then the service sends calls, and the worker answers each under its number. An empty message cancels a call.
"""

import pickle
import struct
from dataclasses import dataclass
from typing import Any, BinaryIO

from reward_service.rewards.function_signature import Signature

HEADER = struct.Struct("<QQ")
MAX_BYTES = 64_000_000
"""Largest answer of a worker: the service unpickles it on its event loop."""


@dataclass(frozen=True, slots=True)
class Start:
    """The first message: what to serve."""

    object: str
    independent: bool
    columns: list[str] | None


@dataclass(frozen=True, slots=True)
class Ready:
    """The first answer: what the service has to know of the function."""

    description: str
    revision: str
    signature: Signature


def encode(number: int, message: Any) -> bytes:
    """Return a message as bytes."""
    return frame(number, pickle.dumps(message, pickle.HIGHEST_PROTOCOL))


def frame(number: int, payload: bytes) -> bytes:
    """Return pickled content, or nothing to cancel a call, as a message."""
    return HEADER.pack(number, len(payload)) + payload


def read(stream: BinaryIO) -> tuple[int, bytes]:
    """Read a message. Raise `EOFError` if the other side has closed the connection."""
    number, length = HEADER.unpack(_read_exactly(stream, HEADER.size))
    return number, _read_exactly(stream, length)


def _read_exactly(stream: BinaryIO, length: int) -> bytes:
    data = stream.read(length)
    if len(data) < length:
        raise EOFError("the other side has closed the connection")
    return data

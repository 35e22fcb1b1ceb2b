"""Encode a request, in as many bodies as the service's limits ask for. Pure."""

import json
from collections.abc import Mapping
from typing import Any

from shared.errors import NotSerializable


def split(request: Mapping[str, Any], *, texts: int, body_bytes: int) -> list[tuple[bytes, int]]:
    """Encode a request as one body, or as several within the limits: (body, its number of texts), in order.

    A single text over the limit travels alone, so that the service can say what is wrong with it.
    """
    count = len(request["completions"])
    if count <= texts or count <= 1:
        body = encode(request)
        if len(body) <= body_bytes or count <= 1:
            return [(body, count)]
    half = count // 2
    parts = (_rows(request, slice(None, half)), _rows(request, slice(half, None)))
    return [body for part in parts for body in split(part, texts=texts, body_bytes=body_bytes)]


def _rows(request: Mapping[str, Any], rows: slice) -> dict[str, Any]:
    part = dict(request)
    part["completions"] = request["completions"][rows]
    if "prompts" in request:
        part["prompts"] = request["prompts"][rows]
    if "columns" in request:
        part["columns"] = {name: values[rows] for name, values in request["columns"].items()}
    return part


def encode(request: Mapping[str, Any]) -> bytes:
    """Encode as compact JSON. Half characters (lone surrogates), which UTF-8 cannot hold, become question marks.

    Raises `NotSerializable` for a column that JSON cannot hold, NaN included.
    """
    try:
        text = json.dumps(request, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as cause:
        raise NotSerializable(f"{_culprit(request)} cannot be sent as JSON: {cause}; leave it out") from cause
    return text.encode("utf-8", "replace")


def _culprit(request: Mapping[str, Any]) -> str:
    """Name the column that JSON cannot hold."""
    for name, values in request.get("columns", {}).items():
        try:
            json.dumps({name: values}, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            return f"the column {name!r}"
    return "the request"

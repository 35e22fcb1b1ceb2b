"""Read users' JSONL files line by line: one JSON object a line, and a sentence with the line's number if it is none."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer.errors import TrainerError

MAX_LINE_BYTES = 4_000_000
"""A longer line is refused before it is parsed. A model reads a few thousand tokens of it at most."""


def objects_of(path: Path, expected: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, object) for each line that is not empty; the place names file and line.

    `expected` says what a line should be, such as `a pair is an object such as {…}`. Raises `TrainerError`.
    """
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                place = f"{path} line {number}"
                if len(line) > MAX_LINE_BYTES:
                    raise TrainerError(f"{place} is longer than {MAX_LINE_BYTES:,} bytes: shorten its texts")
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if line.strip():
                    yield place, parse_object(line, place, expected)
    except OSError as error:
        raise TrainerError(f"cannot read {path}: {error.strerror}") from error


def parse_object(line: bytes, place: str, expected: str) -> dict[str, Any]:
    """Parse one line. Raises `TrainerError` that begins with `place`."""
    try:
        row = json.loads(line.decode())
        if b"\\ud" in line.lower():
            json.dumps(row, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise TrainerError(f"{place} is not UTF-8: save the file as UTF-8") from error
    except UnicodeEncodeError as error:
        raise TrainerError(f"{place} holds a lone surrogate (half a character), which no tokenizer reads") from error
    except (ValueError, RecursionError) as error:
        raise TrainerError(f"{place} is not a JSON object: {expected}") from error
    if not isinstance(row, dict):
        raise TrainerError(f"{place} is not a JSON object: {expected}")
    return row

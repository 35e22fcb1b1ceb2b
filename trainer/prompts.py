"""Read prompts from a JSONL file: one chat prompt a line, with any further columns for the rewards."""

import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from trainer.errors import TrainerError

PACKAGED = "recipe:"
MAX_NESTING = 50
"""Levels that a column's value may nest. The service's JSON parser has its own, higher limit."""
RESERVED_ARGUMENTS = {"self", "prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric"}
"""Not allowed as column names: TRL passes other values to a reward function under these names."""
RESERVED_COLUMNS = {"completion", "image", "images"}
"""Not allowed as column names either: TRL drops the first before the rewards, and expects images in the others."""

Row = dict[str, Any]
"""A line of the file: a list of chat messages under `prompt`; every other key is a column for the rewards."""


def read_prompts(source: str, *, system_prompt: str | None = None) -> list[Row]:
    """Read prompts: one JSON object a line, with the key `prompt`; its other keys are columns for the rewards.

    `source` is a path, or `recipe:<file>` for a file of the package. Raises `TrainerError`.
    """
    lines = [(number, line) for number, line in enumerate(_read_text(source).split("\n"), start=1) if line.strip()]
    if not lines:
        raise TrainerError(f'{source} holds no prompts: write one JSON object a line, such as {{"prompt": "Hi"}}')
    system = [{"role": "system", "content": system_prompt}] if system_prompt else []
    rows = [_parse_row(line, f"{source} line {number}") for number, line in lines]
    return [{**row, "prompt": system + row["prompt"]} for row in rows]


def columns_of(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Return the rows' columns by name, without the prompts; None where a row has no such key."""
    names = dict.fromkeys(name for row in rows for name in row if name != "prompt")
    return {name: [row.get(name) for row in rows] for name in names}


def user_text(prompt: list[dict[str, Any]]) -> str:
    """Return the text of a prompt's user messages."""
    return "\n".join(str(message["content"]) for message in prompt if message["role"] == "user")


def _read_text(source: str) -> str:
    try:
        if source.startswith(PACKAGED):
            folder = resources.files("trainer") / "recipes" / "prompts"
            return (folder / source.removeprefix(PACKAGED)).read_text(encoding="utf-8-sig")
        return Path(source).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise TrainerError(f"{source} is not UTF-8: save it as UTF-8") from error
    except OSError as error:
        raise TrainerError(f"cannot read the prompts in {source}: {error.strerror}") from error


def _parse_row(line: str, where: str) -> Row:
    try:
        row = json.loads(line)
        prompt = row["prompt"]
    except RecursionError as error:
        raise TrainerError(f"{where} nests deeper than {MAX_NESTING} levels") from error
    except (ValueError, KeyError, TypeError) as error:
        raise TrainerError(f'{where} is not a JSON object with the key "prompt"') from error
    if "\\ud" in line.lower() and not _is_encodable(row):
        raise TrainerError(f"{where} contains a lone surrogate (half a character), which cannot be encoded as UTF-8")
    for name, value in row.items():
        _check_column(name, value, where)
    if isinstance(prompt, str) and prompt.strip():
        return {**row, "prompt": [{"role": "user", "content": prompt}]}
    if isinstance(prompt, list) and prompt and all(map(_is_message, prompt)):
        return dict(row)
    raise TrainerError(
        f'{where}: a prompt is a non-empty string or list of chat messages, such as {{"role": "user", "content": "Hi"}}'
    )


def _is_encodable(row: Row) -> bool:
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and all(isinstance(message.get(key), str) for key in ("role", "content"))


def _check_column(name: str, value: Any, where: str) -> None:
    """Raise `TrainerError` for a column that could not be sent to the rewards."""
    if name in RESERVED_ARGUMENTS | RESERVED_COLUMNS:
        raise TrainerError(f"{where}: a column cannot be called {name!r}, which TRL reserves; choose another name")
    if _nests_deeper(value, MAX_NESTING):
        raise TrainerError(f"{where}: the column {name!r} nests deeper than {MAX_NESTING} levels")
    try:
        json.dumps(value, allow_nan=False)
    except ValueError as error:
        raise TrainerError(f"{where}: the column {name!r} holds NaN or an infinite number; write null") from error


def _nests_deeper(value: Any, levels: int) -> bool:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels < 0 or any(_nests_deeper(child, levels - 1) for child in children)

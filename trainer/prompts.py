"""Prompts: a JSONL file in, rows with a chat prompt each out."""

import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from trainer.errors import TrainerError

PACKAGED = "recipe:"


Row = dict[str, Any]
"""A prompt as a list of chat messages under `prompt`, and whatever else its line holds: columns for the rewards."""


def read_prompts(source: str, *, system_prompt: str | None = None) -> list[Row]:
    """Read prompts, one JSON object with the key `prompt` a line; its other keys are columns that rewards may read.

    `source` is a path, or `recipe:<file>` for one that comes with the package. Raises `TrainerError`.
    """
    lines = [line for line in _text(source).split("\n") if line.strip()]
    if not lines:
        raise TrainerError(f'{source} holds no prompts: write one JSON object a line, such as {{"prompt": "Hi"}}')
    system = [{"role": "system", "content": system_prompt}] if system_prompt else []
    rows = [_row(line, f"{source} line {number}") for number, line in enumerate(lines, start=1)]
    return [{**row, "prompt": system + row["prompt"]} for row in rows]


def columns_of(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Give what the rows hold besides their prompts, by name; None where a row lacks it."""
    names = dict.fromkeys(name for row in rows for name in row if name != "prompt")
    return {name: [row.get(name) for row in rows] for name in names}


def question_of(prompt: list[dict[str, Any]]) -> str:
    """Give what the user says in a prompt."""
    return "\n".join(str(message["content"]) for message in prompt if message["role"] == "user")


def _text(source: str) -> str:
    try:
        if source.startswith(PACKAGED):
            folder = resources.files("trainer") / "recipes" / "prompts"
            return (folder / source.removeprefix(PACKAGED)).read_text(encoding="utf-8")
        return Path(source).read_text(encoding="utf-8")
    except OSError as error:
        raise TrainerError(f"cannot read the prompts in {source}: {error.strerror}") from error


def _whole(line: str) -> bool:
    """Tell whether what a JSON line says can be written as text."""
    try:
        json.dumps(json.loads(line), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _row(line: str, where: str) -> Row:
    try:
        row = json.loads(line)
        prompt = row["prompt"]
    except (ValueError, KeyError, TypeError) as error:
        raise TrainerError(f'{where} is not a JSON object with the key "prompt"') from error
    if "\\ud" in line.lower() and not _whole(line):
        raise TrainerError(f"{where} holds half a character (a lone surrogate), which is no text")
    if isinstance(prompt, str) and prompt.strip():
        return {**row, "prompt": [{"role": "user", "content": prompt}]}
    if isinstance(prompt, list) and prompt:
        return dict(row)
    raise TrainerError(f"{where}: a prompt is a non-empty string or list of chat messages")

"""Prompts: a JSONL file in, chat prompts out."""

import json
from importlib import resources
from pathlib import Path
from typing import Any

from trainer.errors import TrainerError

PACKAGED = "recipe:"


def read_prompts(source: str, *, system_prompt: str | None = None) -> list[list[dict[str, Any]]]:
    """Read prompts, one JSON object with the key `prompt` a line, as lists of chat messages.

    `source` is a path, or `recipe:<file>` for one that comes with the package. Raises `TrainerError`.
    """
    lines = [line for line in _text(source).splitlines() if line.strip()]
    if not lines:
        raise TrainerError(f'{source} holds no prompts: write one JSON object a line, such as {{"prompt": "Hi"}}')
    system = [{"role": "system", "content": system_prompt}] if system_prompt else []
    return [system + _messages(line, f"{source} line {number}") for number, line in enumerate(lines, start=1)]


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


def _messages(line: str, where: str) -> list[dict[str, Any]]:
    try:
        prompt = json.loads(line)["prompt"]
    except (ValueError, KeyError, TypeError) as error:
        raise TrainerError(f'{where} is not a JSON object with the key "prompt"') from error
    if isinstance(prompt, str) and prompt.strip():
        return [{"role": "user", "content": prompt}]
    if isinstance(prompt, list) and prompt:
        return prompt
    raise TrainerError(f"{where}: a prompt is a non-empty string or list of chat messages")

"""Prompts: read from a JSONL file, one chat prompt a line with further columns for the rewards, or as a dataset."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from datasets import Dataset

from trainer.errors import TrainerError

PACKAGED = "recipe:"
MAX_NESTING = 50
"""Levels that a column's value may nest. The service's JSON parser has its own, higher limit."""
RESERVED_ARGUMENTS = {"self", "prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric"}
"""Not allowed as column names: TRL passes other values to a reward function under these names."""
RESERVED_COLUMNS = {"completion", "image", "images"}
"""Not allowed as column names either: TRL drops the first before the rewards, and expects images in the others."""

Message = dict[str, Any]
Row = dict[str, Any]
"""A line of the file: a list of chat messages under `prompt`; every other key is a column for the rewards."""


def read_prompts(source: str, *, system_prompt: str | None = None, few_shot: str | None = None) -> list[Row]:
    """Read prompts: one JSON object a line, with the key `prompt`; its other keys are columns for the rewards.

    `source` is a path, or `recipe:<file>` for a file of the package, as is `few_shot`: examples with a prompt and its
    completion, which come as turns between the system prompt and every prompt. Raises `TrainerError`.
    """
    before = turns_before(system_prompt=system_prompt, few_shot=few_shot)
    return [{**row, "prompt": before + row["prompt"]} for row in _rows(source)]


def turns_before(*, system_prompt: str | None, few_shot: str | None) -> list[Message]:
    """Return the messages that come before every prompt. Raises `TrainerError` for a wrong file of examples."""
    turns = [{"role": "system", "content": system_prompt}] if system_prompt else []
    for number, row in enumerate(_rows(few_shot, columns=False) if few_shot else (), start=1):
        completion = row.get("completion")
        if not isinstance(completion, str) or not completion.strip():
            raise TrainerError(f'{few_shot}, example {number}: "completion" is not a text; write the answer to imitate')
        turns += [*row["prompt"], {"role": "assistant", "content": completion}]
    return turns


def columns_of(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Return the rows' columns by name, without the prompts; None where a row has no such key."""
    names = dict.fromkeys(name for row in rows for name in row if name != "prompt")
    return {name: [row.get(name) for row in rows] for name in names}


def user_text(prompt: list[Message]) -> str:
    """Return the text of a prompt's last user message; of a prompt without one, an empty text."""
    return next((str(message["content"]) for message in reversed(prompt) if message["role"] == "user"), "")


def prompt_id_of(prompt: list[Message]) -> str:
    """Return a hash of a whole prompt. Of different conversations, the last user message may be the same."""
    return hashlib.sha256(json.dumps(prompt, sort_keys=True).encode()).hexdigest()[:12]


def check_disjoint(rows: Sequence[Row], heldout: Sequence[Row]) -> None:
    """Raise `TrainerError` if a held-out prompt is also a training prompt."""
    trained = {_said_by_user(row["prompt"]) for row in rows}
    overlap = [user_text(row["prompt"]) for row in heldout if _said_by_user(row["prompt"]) in trained]
    if overlap:
        raise TrainerError(f"{len(overlap)} held-out prompts are also trained on, such as {overlap[0]!r}; remove them")


def to_dataset(rows: Sequence[Row]) -> Dataset:
    """Return the rows as TRL expects them: every column for every row, and each value as it is in the file.

    Values are stored as JSON, because an Arrow column has one type: it would turn 1 beside 2.5 into 1.0 or refuse it,
    and the rewards would see other values in training than in evaluation.
    """
    columns = {"prompt": [row["prompt"] for row in rows], **columns_of(rows)}
    texts = {name: [json.dumps(value) for value in values] for name, values in columns.items()}
    return Dataset.from_dict(texts).with_transform(_parse_columns)


def _parse_columns(texts: Mapping[str, Sequence[str]]) -> dict[str, list[Any]]:
    return {name: [json.loads(text) for text in column] for name, column in texts.items()}


def _rows(source: str, *, columns: bool = True) -> list[Row]:
    lines = [(number, line) for number, line in enumerate(_read_text(source).split("\n"), start=1) if line.strip()]
    if not lines:
        raise TrainerError(f'{source} holds no prompts: write one JSON object a line, such as {{"prompt": "Hi"}}')
    return [_parse_row(line, f"{source} line {number}", columns=columns) for number, line in lines]


def _said_by_user(prompt: list[Message]) -> tuple[str, ...]:
    return tuple(message["content"].strip().lower() for message in prompt if message["role"] == "user")


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


def _parse_row(line: str, where: str, *, columns: bool) -> Row:
    """Return the object of a line; with `columns`, its other keys must be able to go to the rewards."""
    try:
        row = json.loads(line)
        prompt = row["prompt"]
    except RecursionError as error:
        raise TrainerError(f"{where} nests deeper than {MAX_NESTING} levels") from error
    except (ValueError, KeyError, TypeError) as error:
        raise TrainerError(f'{where} is not a JSON object with the key "prompt"') from error
    if "\\ud" in line.lower() and not _is_encodable(row):
        raise TrainerError(f"{where} contains a lone surrogate (half a character), which cannot be encoded as UTF-8")
    for name, value in row.items() if columns else ():
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

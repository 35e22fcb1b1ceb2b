"""Which head a model folder was saved with, and whether it can be served exactly. No weights are loaded.

In: `config.json` and the names of the weights. Out: the transformers class that computes the score, or a `ConfigError`
that says what the folder is, why it is refused and the one thing to do.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from reward_service.errors import ConfigError

SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
VALUE_HEAD_FILE = "value_head.safetensors"
INDEX_FILE = "model.safetensors.index.json"
VALUE_WEIGHT, VALUE_BIAS = "v_head.summary.weight", "v_head.summary.bias"
ADAPTER_CONFIG = "adapter_config.json"
WRAPPER_NAMES = {r"^((module|_orig_mod|_fsdp_wrapped_module)\.)+": "", r"\.(_orig_mod|_fsdp_wrapped_module)\.": "."}
"""Parts of weight names that DistributedDataParallel, torch.compile and FSDP add, and what takes their place."""
UNUSED_WEIGHTS = re.compile(
    r"(^|\.)lm_head\.|\.inv_freq$|\.position_ids$|\.masked_bias$|\.pooler\.dense\.|^cls\.(predictions|seq_relationship)\."
)
"""Weights that other heads or older versions leave in a folder, and that no sequence classifier computes with."""

HeadKind = Literal["sequence", "token", "value", "embedding"]


@dataclass(frozen=True, slots=True)
class Head:
    """What is computed of a text: a transformers class's logits, a value head's output, or an embedding."""

    kind: HeadKind
    class_name: str
    """The transformers class that holds the weights."""


def read_head(folder: Path) -> Head:
    """Return the head that a folder was saved with. Raise `ConfigError` where it cannot be served exactly."""
    config = read_json(folder / "config.json")
    name = _class_name(config)
    if (folder / VALUE_HEAD_FILE).exists():
        return Head("value", name)
    if not name:
        return Head("sequence", "")
    if name.endswith("ForSequenceClassification") and _is_known(name):
        _check_own_code(name, "AutoModelForSequenceClassification", config)
        return Head("sequence", name)
    if name.endswith("ForTokenClassification") and _is_known(name):
        _check_own_code(name, "AutoModelForTokenClassification", config)
        return _token_head(name, config)
    if any(key.startswith("v_head.") for key in weight_names(folder)):
        raise ConfigError(
            f"the weights in {folder} hold a value head (v_head) beside those of {name}: save it apart, as "
            f"{VALUE_HEAD_FILE} with {VALUE_WEIGHT} and {VALUE_BIAS}, and the rest as the model"
        )
    if (folder / VALUE_HEAD_FILE).with_suffix(".bin").exists():
        raise ConfigError(
            f"the value head in {folder} is pickled: convert it once, reward-service convert {folder} OUT"
        )
    raise ConfigError(_why_not(name, config))


def read_encoder(folder: Path) -> Head:
    """Return the head of a folder whose texts are embedded. Raise `ConfigError` where it is no plain encoder."""
    config = read_json(folder / "config.json")
    name = _class_name(config)
    if name and not _is_known(name):
        raise ConfigError(_why_not(name, config))
    if name.endswith(("ForSequenceClassification", "ForTokenClassification")):
        raise ConfigError(
            f"the model was saved as {name}, which scores texts and was not trained to embed them: use kind: "
            f"classifier or regressor, or a sentence-embedding model"
        )
    return Head("embedding", name)


def _class_name(config: Mapping[str, Any]) -> str:
    """Return the class that a model was saved as, or an empty string."""
    architectures = config.get("architectures") or [""]
    return architectures if isinstance(architectures, str) else str(architectures[0] or "")


def _check_own_code(name: str, auto_class: str, config: Mapping[str, Any]) -> None:
    """Raise `ConfigError` if a folder says that a class of transformers' name is to be computed by code of its own."""
    own_code = config.get("auto_map") or {}
    if auto_class in own_code:
        raise ConfigError(
            f"the model was saved as {name} with its own code ({auto_class} in auto_map of its config.json), which is "
            f"not run; if transformers' own {name} was trained, remove auto_map there"
        )


def _token_head(name: str, config: Mapping[str, Any]) -> Head:
    labels = len(config["id2label"]) if config.get("id2label") else int(config.get("num_labels") or 2)
    if labels > 1:
        raise ConfigError(
            f"the model was saved as {name} with {labels} labels: it scores steps or tokens, not completions; use a "
            f"model that was trained as a reward model for whole completions"
        )
    return Head("token", name)


def _is_known(name: str) -> bool:
    import transformers

    return hasattr(transformers, name)


def _why_not(name: str, config: Mapping[str, Any]) -> str:
    if config.get("auto_map") or not _is_known(name):
        return (
            f"the model was saved as {name}, which needs its own code: transformers has no such class, and code from a "
            f"model's folder is not run; use a reward model saved as a …ForSequenceClassification of transformers"
        )
    if name.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")):
        return (
            f"the model was saved as {name}, a language model without a head that scores: train a reward model from "
            f"it first, for example with TRL's RewardTrainer"
        )
    return (
        f"the model was saved as {name}, which has no head that scores texts: use a model saved as a "
        f"…ForSequenceClassification"
    )


def unexpected_weights(names: Iterable[str]) -> list[str]:
    """Return the weights, of those that a class does not know, that may have been part of the score."""
    return sorted(name for name in names if not UNUSED_WEIGHTS.search(name))


def weight_names(folder: Path) -> list[str]:
    """Return the names of all weights of a folder, without reading the weights."""
    names: list[str] = []
    for file in weight_files(folder):
        with safe_open(file, framework="numpy") as weights:
            names += weights.keys()
    return names


def weight_files(folder: Path) -> list[Path]:
    """Return the files that hold a model's own weights: neither an adapter's nor a value head's."""
    extra = {VALUE_HEAD_FILE, "adapter_model.safetensors"}
    return sorted(path for path in folder.glob("*.safetensors") if path.name not in extra)


def check_weights(path: Path) -> None:
    """Raise `ConfigError` if a folder has no weights, only pickled ones, or a file that is not whole."""
    files = weight_files(path)
    if not files:
        raise ConfigError(
            f"{path} holds no .safetensors weights; pickled weights can run code, so convert them once: "
            f"reward-service convert {path} OUT"
        )
    shards = [file.name for file in files if SHARD.fullmatch(file.name)]
    if shards and (path / "model.safetensors").exists():
        raise ConfigError(
            f"{path} holds the weights twice, in model.safetensors and in {shards[0]} …: which of them was meant is "
            f"not certain; remove the others"
        )
    if not (path / "model.safetensors").exists():
        _check_index(path, files[0].name)
    for file in files:
        try:
            with safe_open(file, framework="numpy"):  # reads the header, and compares its sizes with the file's
                pass
        except SafetensorError as error:
            raise ConfigError(
                f"{file} is no whole safetensors file ({error}): a copy that was cut short, or a pointer of Git LFS; "
                f"copy or download it again"
            ) from error


def _check_index(path: Path, file: str) -> None:
    """Raise `ConfigError` unless an index names the files of the weights, and all of them are there."""
    index = path / INDEX_FILE
    if not index.exists():
        raise ConfigError(
            f"{path} holds {file}, and neither model.safetensors nor {INDEX_FILE}, by which its weights are found: "
            f"save the model there again, with save_pretrained"
        )
    shards = {str(name) for name in dict(read_json(index).get("weight_map") or {}).values()}
    if lacking := sorted(name for name in shards if not (path / name).exists()):
        raise ConfigError(f"{path} lacks {lacking[0]}, a part of the weights: copy or download it again")


def has_wrapper_names(names: Iterable[str]) -> bool:
    """Return whether weights were saved from within DistributedDataParallel, torch.compile or FSDP."""
    return any(re.search(pattern, name) for name in names for pattern in WRAPPER_NAMES)


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object. Raise `ConfigError` where the file is missing or holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path.parent} holds no {path.name}: it is no model folder, or not a whole one; save it there again "
            f"with save_pretrained"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}; save the model there again") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} is not a JSON object; save the model there again")
    return content

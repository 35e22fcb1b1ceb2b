"""Merge a LoRA adapter into its base model, once, into a folder of the cache that is served like any other.

In: a folder as TRL's RewardTrainer with peft leaves it (`adapter_config.json`, `adapter_model.safetensors`). Out: a
folder with the whole model in float32, its trained head and the tokenizer that it was trained with.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import safe_open

from shared.model_store.cache import build_once, cache_home
from shared.model_store.errors import ModelError, as_model_error
from shared.model_store.progress import log, quiet_transformers

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
VALUE_HEAD_FILE = "value_head.safetensors"
FORMAT = 1  # of the merged folder
AUTO_CLASSES = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "CAUSAL_LM": "AutoModelForCausalLM",
}
HEADS = {"SEQ_CLS": ("score", "classifier"), "TOKEN_CLS": ("score", "classifier")}


def is_adapter(folder: Path) -> bool:
    """Return whether a folder holds an adapter. Raise `ModelError` where a whole model lies beside it."""
    if not (folder / ADAPTER_CONFIG).exists():
        return False
    whole = [path.name for path in folder.glob("*.safetensors") if path.name not in (ADAPTER_WEIGHTS, VALUE_HEAD_FILE)]
    if whole:
        raise ModelError(
            f"{folder} holds a whole model ({whole[0]}) and an adapter ({ADAPTER_CONFIG}): which of them was meant is "
            f"not certain; move one of them to a folder of its own"
        )
    return True


def merged(folder: Path, resolve: Callable[[str], Path]) -> Path:
    """Return the folder of the merged model, built on first use. `resolve` finds the base model by its name.

    Raises `ModelError` where the adapter is not LoRA, has no trained head, or its base model cannot be had.
    """
    with as_model_error(f"cannot read {ADAPTER_CONFIG} in {folder}; save the adapter there again"):
        config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    _check_kind(folder, config)
    base = _base_folder(folder, config, resolve)
    target = cache_home() / "merged" / _key(folder, base)
    return build_once(target, lambda into: _merge(folder, base, config["task_type"], into))


def _check_kind(folder: Path, config: dict[str, Any]) -> None:
    task, kind = config.get("task_type"), config.get("peft_type")
    if kind != "LORA":
        raise ModelError(
            f"{folder} holds a {kind} adapter: only LoRA can be merged; merge it with peft and save the model"
        )
    if task not in AUTO_CLASSES or (task == "CAUSAL_LM" and not (folder / VALUE_HEAD_FILE).exists()):
        raise ModelError(
            f"{folder} holds an adapter of task_type {task}: it has no head that scores; train one with "
            f"task_type SEQ_CLS, as TRL's RewardTrainer does"
        )
    if not (folder / ADAPTER_WEIGHTS).exists():
        raise ModelError(f"{folder} holds {ADAPTER_CONFIG} without {ADAPTER_WEIGHTS}: save the adapter again")


def _base_folder(folder: Path, config: dict[str, Any], resolve: Callable[[str], Path]) -> Path:
    name = str(config.get("base_model_name_or_path") or "")
    revision = config.get("revision")
    try:
        return resolve(f"{name}@{revision}" if revision and not Path(name).is_dir() else name)
    except ModelError as error:
        raise ModelError(
            f"the base model {name!r} of the adapter in {folder} cannot be loaded: {error}; write where it is into "
            f"base_model_name_or_path in {ADAPTER_CONFIG}"
        ) from error


def _key(folder: Path, base: Path) -> str:
    """Hash what the merged model is made of: the adapter's content, and the base's files as they are now."""
    digest = hashlib.sha256(json.dumps([FORMAT, str(base.resolve())]).encode())
    for path in sorted(
        path for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".jinja", ".model")
    ):
        digest.update(path.name.encode() + path.read_bytes())
    for path in sorted(path for path in base.iterdir() if path.is_file()):
        stat = path.stat()
        digest.update(f"{path.name} {stat.st_size} {stat.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]


def _merge(folder: Path, base: Path, task: str, into: Path) -> None:
    import torch
    import transformers
    from transformers import AutoTokenizer

    try:
        from peft import PeftModel
    except ImportError as error:
        raise ModelError(
            f"{folder} holds a LoRA adapter, which peft merges: pip install 'remote-rewards[lora]'"
        ) from error
    log(f"merging the adapter in {folder} into {base}")
    shapes = _shapes(folder / ADAPTER_WEIGHTS)
    labels = _labels(folder, task, shapes)
    with quiet_transformers():
        settings = {"dtype": torch.float32, "output_loading_info": True, "trust_remote_code": False}
        if labels:
            settings["num_labels"] = labels
        model, report = getattr(transformers, AUTO_CLASSES[task]).from_pretrained(base, **settings)
        if not labels and task in HEADS and report["missing_keys"]:
            raise ModelError(
                f"neither the adapter in {folder} nor its base model holds a trained head "
                f"({sorted(report['missing_keys'])[0]}): train with modules_to_save=['score']"
            )
        rows = next((shape[0] for name, shape in shapes.items() if name.endswith("embed_tokens.weight")), None)
        if rows and rows != model.get_input_embeddings().weight.shape[0]:
            model.resize_token_embeddings(rows)
        model = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
        tokenizer = AutoTokenizer.from_pretrained(folder if any(folder.glob("tokenizer*")) else base)
        if model.config.get_text_config().pad_token_id is None:  # the trainer sets it so, too
            model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
        model.save_pretrained(into)
        tokenizer.save_pretrained(into)
    if (folder / VALUE_HEAD_FILE).exists():
        shutil.copyfile(folder / VALUE_HEAD_FILE, into / VALUE_HEAD_FILE)


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    with safe_open(file, framework="numpy") as weights:
        return {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118


def _labels(folder: Path, task: str, shapes: dict[str, tuple[int, ...]]) -> int | None:
    """Return the number of outputs of the head that the adapter holds, or None where it holds none."""
    heads = [
        shape[0]
        for name, shape in shapes.items()
        if len(shape) == 2 and "lora_" not in name and any(f".{head}." in name for head in HEADS.get(task, ()))
    ]
    return heads[-1] if heads else None

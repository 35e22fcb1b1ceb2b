"""Merge a LoRA adapter into its base model, once, into a folder of the cache that is served like any other.

In: a folder as TRL's RewardTrainer with peft leaves it (`adapter_config.json`, `adapter_model.safetensors`). Out: a
folder with the whole model in float32, its trained head and the tokenizer that it was trained with.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from shared.model_store.cache import build_once, cache_home
from shared.model_store.errors import ModelError, as_model_error
from shared.model_store.progress import log, quiet_transformers

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
VALUE_HEAD_FILE = "value_head.safetensors"
FORMAT = 2  # of the merged folder
AUTO_CLASSES = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "CAUSAL_LM": "AutoModelForCausalLM",
}
PEFT_PREFIX = "base_model.model."
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

    Raises `ModelError` where the adapter is not LoRA, has no trained head, does not fit its base model, or where that
    cannot be had.
    """
    with as_model_error(f"cannot read {ADAPTER_CONFIG} in {folder}; save the adapter there again"):
        config = {**json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))}
    _check_kind(folder, config)
    base = _base_folder(folder, config, resolve)
    doing = f"cannot merge the adapter in {folder} into {base}"
    try:
        with as_model_error(doing):
            target = cache_home() / "merged" / _key(folder, base)
            return build_once(target, lambda into: _merge(folder, base, config["task_type"], into))
    except ModelError as error:
        raise error if str(error).startswith(doing) else ModelError(f"{doing}: {error}") from error


def _check_kind(folder: Path, config: dict[str, Any]) -> None:
    task, kind = config.get("task_type"), config.get("peft_type")
    if kind != "LORA":
        raise ModelError(
            f"{folder} holds a {kind} adapter, and only LoRA is merged here: merge it with peft, if that kind can be, "
            f"and save the whole model"
        )
    if task not in AUTO_CLASSES or (task == "CAUSAL_LM" and not (folder / VALUE_HEAD_FILE).exists()):
        raise ModelError(
            f"{folder} holds an adapter of task_type {task}, without a head that scores: train one with task_type "
            f"SEQ_CLS, as TRL's RewardTrainer does, or merge an encoder's with peft and save the whole model"
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
    from transformers import AutoTokenizer

    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise ModelError("peft is needed for LoRA adapters: pip install 'remote-rewards[lora]'") from error
    log(f"merging the adapter in {folder} into {base}")
    with as_model_error(f"{ADAPTER_WEIGHTS} is no whole safetensors file; copy or save it again"):
        shapes = _shapes(folder / ADAPTER_WEIGHTS)
    with quiet_transformers():
        model = _load_base(base, task, shapes)
        rows = next((shape[0] for name, shape in shapes.items() if name.endswith("embed_tokens.weight")), None)
        if rows and rows != model.get_input_embeddings().weight.shape[0]:
            model.resize_token_embeddings(rows)
        model = _adapted(model, folder).merge_and_unload()
        tokenizer = AutoTokenizer.from_pretrained(folder if any(folder.glob("tokenizer*")) else base)
        if model.config.get_text_config().pad_token_id is None:  # the trainer sets it so, too
            model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
        model.save_pretrained(into)
        tokenizer.save_pretrained(into)
    if (folder / VALUE_HEAD_FILE).exists():
        shutil.copyfile(folder / VALUE_HEAD_FILE, into / VALUE_HEAD_FILE)


def _load_base(base: Path, task: str, shapes: Mapping[str, tuple[int, ...]]) -> Any:
    """Return the base model in float32. Raise `ModelError` if a weight that the adapter does not hold is missing."""
    import torch
    import transformers

    if (base / ADAPTER_CONFIG).exists():
        raise ModelError("its base model is an adapter, too: merge that one first, with peft's merge_and_unload")
    if quantization := json.loads((base / "config.json").read_text(encoding="utf-8")).get("quantization_config"):
        raise ModelError(
            f"its base model is quantized ({quantization.get('quant_method')}): name the base that it was made from in "
            f"base_model_name_or_path of {ADAPTER_CONFIG}"
        )
    labels = _labels(task, shapes)
    settings: dict[str, Any] = {"num_labels": labels} if labels else {}
    model, report = getattr(transformers, AUTO_CLASSES[task]).from_pretrained(
        base,
        dtype=torch.float32,
        output_loading_info=True,
        trust_remote_code=False,
        use_safetensors=True,
        ignore_mismatched_sizes=True,  # they are refused below, except a head that the adapter replaces
        **settings,
    )
    replaced = {name.removeprefix(PEFT_PREFIX) for name in shapes}
    lacking = sorted(key for key in {*report["missing_keys"], *_names(report["mismatched_keys"])} - replaced)
    if heads := [key for key in lacking if key.partition(".")[0] in HEADS.get(task, ())]:
        raise ModelError(
            f"neither the adapter nor its base model holds a trained head ({heads[0]}): train with "
            f"modules_to_save=['score']"
        )
    if lacking:
        raise ModelError(
            f"the base model has no {lacking[0]} of the shape that {type(model).__name__} computes the score with: it "
            f"would be random; use the base that the adapter was trained on, saved whole, or save the layer with the "
            f"adapter (modules_to_save)"
        )
    return model


def _names(mismatched: Iterable[Any]) -> Iterator[str]:
    """Yield the names of weights of another shape, which transformers reports with their shapes."""
    for entry in mismatched:
        yield entry if isinstance(entry, str) else entry[0]


def _adapted(model: Any, folder: Path) -> Any:
    """Return the model with its adapter. Raise `ModelError` where their weights differ: peft only warns of that."""
    from peft import PeftModel

    wrong_base = f"it was trained on another base model; name that one in base_model_name_or_path of {ADAPTER_CONFIG}"
    try:
        adapted = PeftModel.from_pretrained(model, str(folder))
        report = adapted.load_adapter(str(folder), "default")  # again, for what the first one does not return
    except (RuntimeError, ValueError) as error:  # other shapes, or none of the layers that it adapts
        raise ModelError(f"{wrong_base} ({str(error).strip().splitlines()[-1].strip()})") from error
    if report.unexpected_keys:
        raise ModelError(f"the base model has no place for {sorted(report.unexpected_keys)[0]}: {wrong_base}")
    if report.missing_keys:
        raise ModelError(f"the adapter has no {sorted(report.missing_keys)[0]}: {wrong_base}")
    return adapted


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    with safe_open(file, framework="numpy") as weights:
        return {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118


def _labels(task: str, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Return the number of outputs of the head that the adapter holds, or None where it holds none."""
    heads = [
        shape[0]
        for name, shape in shapes.items()
        if len(shape) == 2 and "lora_" not in name and any(f".{head}." in name for head in HEADS.get(task, ()))
    ]
    return heads[-1] if heads else None

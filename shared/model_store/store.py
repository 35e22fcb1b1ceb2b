"""Resolve a model name to a local folder: a folder, a hub id, or `embedded:<name>`, which is built on first use.

In: a name. Out: a folder that `from_pretrained` loads. Never: pickled weights, code from the hub, or an exception
other than `ModelError`.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.errors import did_you_mean
from shared.model_store.cache import build_once, cache_home
from shared.model_store.errors import ModelError, as_model_error

EMBEDDED_PREFIX = "embedded:"
HUB_ID = re.compile(r"([\w-][\w.-]*(?:/[\w-][\w.-]*)?)(?:@([\w./-]+))?")
DOWNLOAD_PATTERNS = ["*.safetensors", "*.json", "*.txt", "*.jinja", "*.model", "*.tiktoken", "*.codes"]
IGNORE_PATTERNS = ["onnx/*", "openvino/*", "coreml/*", "original/*", "consolidated*"]
"""Copies of the weights in the formats of other libraries."""
PICKLED_PATTERNS = ("pytorch_model*.bin", "adapter_model.bin", "value_head.bin")
OTHER_FORMATS = (".gguf", ".onnx", ".h5", ".msgpack", ".pth", ".pt", ".ckpt", ".bin")


@dataclass(frozen=True)
class EmbeddedModel:
    """A model that is built on this machine from pinned wheels."""

    folder: str
    """Its folder in the cache. The name ends in a version, which increases with each change of the recipe."""
    build: Callable[[Path], None]
    subfolder: str = ""
    """The model's place in the folder, if one build makes several models."""


def _build_smollm2(folder: Path) -> None:
    from shared.model_store.embedded import smollm2

    smollm2.build(folder)


def _build_minilm(folder: Path) -> None:
    from shared.model_store.embedded import minilm

    minilm.build(folder)


def _build_sentiment(folder: Path) -> None:
    from shared.model_store.embedded import sentiment

    sentiment.build(folder, encoder=resolve("embedded:minilm"))


EMBEDDED_MODELS: dict[str, EmbeddedModel] = {
    "smollm2": EmbeddedModel("smollm2-1", _build_smollm2),
    "minilm": EmbeddedModel("minilm-1", _build_minilm),
    "sentiment": EmbeddedModel("ratings-3", _build_sentiment, subfolder="sentiment"),
    "valence": EmbeddedModel("ratings-3", _build_sentiment, subfolder="valence"),
}


def resolve(name: str) -> Path:
    """Return the folder of a model, downloaded or built if necessary. Raises `ModelError`."""
    with as_model_error(f"cannot prepare {name}"):
        if name.startswith(EMBEDDED_PREFIX):
            folder = _embedded_folder(name.removeprefix(EMBEDDED_PREFIX))
        elif not (name and (folder := Path(name).expanduser()).is_dir()):
            if looks_like_a_path(name):
                if Path(name).is_file():
                    raise ModelError(f"{name!r} is a file: name the folder that holds it")
                choices = ", ".join(_embedded_names())
                raise ModelError(f"there is no folder {name!r}: use a folder, a hub id, or one of {choices}")
            folder = download(name)
        _check_has_safetensors(name, folder)
    return folder


def prepare_all(names: Sequence[str] | None = None) -> dict[str, Path]:
    """Resolve several models, by default all embedded ones. Returns their folders by name."""
    return {name: resolve(name) for name in dict.fromkeys(_embedded_names() if names is None else names)}


def looks_like_a_path(name: str) -> bool:
    """Return whether a name that is not a folder cannot be a hub id."""
    return Path(name).exists() or HUB_ID.fullmatch(name) is None


def hub_id(name: str) -> tuple[str, str | None]:
    """Return (repository, revision) of a hub id such as `org/model` or `org/model@commit`."""
    parts = HUB_ID.fullmatch(name)
    return (parts[1], parts[2]) if parts else (name, None)


def _embedded_folder(name: str) -> Path:
    if name not in EMBEDDED_MODELS:
        full_name, known = f"{EMBEDDED_PREFIX}{name}", _embedded_names()
        raise ModelError(f"there is no {full_name!r}{did_you_mean(full_name, known)}; there are: {', '.join(known)}")
    model = EMBEDDED_MODELS[name]
    return build_once(cache_home() / "models" / model.folder, model.build) / model.subfolder


def _embedded_names() -> list[str]:
    return [f"{EMBEDDED_PREFIX}{name}" for name in EMBEDDED_MODELS]


def download(name: str, patterns: Sequence[str] = DOWNLOAD_PATTERNS) -> Path:
    """Return the folder of a hub model in the cache of huggingface_hub; without network, only if it is there.

    `name` is a hub id, with `@revision` (a branch, tag or commit) where it is not to follow the main branch.
    """
    from huggingface_hub import errors, snapshot_download

    repository, revision = hub_id(name)
    try:
        return Path(
            snapshot_download(
                repository, revision=revision, allow_patterns=[*patterns], ignore_patterns=IGNORE_PATTERNS
            )
        )
    except errors.RevisionNotFoundError as cause:
        raise ModelError(
            f"{repository} has no revision {revision!r} on the hub: use a branch, a tag or a commit"
        ) from cause
    except errors.GatedRepoError as cause:
        raise ModelError(f"{name} is gated: request access on its hub page, and set HF_TOKEN") from cause
    except errors.RepositoryNotFoundError as cause:
        raise ModelError(
            f"{name} is neither a folder here nor a model on the hub (a private model needs HF_TOKEN)"
        ) from cause
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, ConnectionError) as cause:
        raise ModelError(
            f"{name} is neither a folder here nor in the local hub cache, and the hub is unreachable: download it "
            f"once with network access, use a folder, or an embedded model such as embedded:smollm2"
        ) from cause


def _check_has_safetensors(name: str, folder: Path) -> None:
    if any(folder.glob("*.safetensors")):
        return
    if name.startswith(EMBEDDED_PREFIX):
        hint = "remove it to have it built again"
    elif any(path for pattern in PICKLED_PATTERNS for path in folder.glob(pattern)):
        hint = f"pickled weights can run code, so convert them once: reward-service convert {name} OUT"
    elif inner := sorted(
        (path.parent for path in folder.glob("*/*.safetensors")), key=lambda path: path.stat().st_mtime
    ):
        hint = f"name one of the models in it, such as {inner[-1]}"
    elif other := sorted(path.name for suffix in OTHER_FORMATS for path in folder.glob(f"*{suffix}")):
        hint = f"{other[0]} is another library's format; use the model as transformers' save_pretrained saves it"
    else:
        hint = "save the model there, with save_pretrained"
    raise ModelError(f"{folder} contains no .safetensors weights: {hint}")

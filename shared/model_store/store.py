"""From a model's name to its folder: a folder, a hub id, or `embedded:<name>`, made here on first use.

Enters: a name. Leaves: a local folder that `from_pretrained` loads. Never: pickled weights, or another's
error: whatever fails is a `ModelError` of one sentence.
"""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.model_store import hub
from shared.model_store.cache import build_once
from shared.model_store.cache import cache_home as cache_home
from shared.model_store.errors import ModelError, translating

PREFIX = "embedded:"
CONVERT = "pickled ones can run code; where you trust them, save_pretrained(…) converts them"


@dataclass(frozen=True)
class Embedded:
    """A model that is made on this machine from pinned wheels."""

    folder: str
    """Its folder in the cache; ends in its recipe's version, so that a changed recipe makes a new one."""
    build: Callable[[Path], None]
    part: str = ""
    """Which of the folder's models it is, where one preparation makes several."""


def _policy(into: Path) -> None:
    from shared.model_store.embedded import smollm2

    smollm2.build(into)


def _encoder(into: Path) -> None:
    from shared.model_store.embedded import minilm

    minilm.build(into)


def _sentiment(into: Path) -> None:
    from shared.model_store.embedded import sentiment

    sentiment.build(into, encoder=resolve("embedded:minilm"))


EMBEDDED: dict[str, Embedded] = {
    "smollm2": Embedded("smollm2-1", _policy),
    "minilm": Embedded("minilm-1", _encoder),
    "sentiment": Embedded("ratings-3", _sentiment, part="sentiment"),
    "valence": Embedded("ratings-3", _sentiment, part="valence"),
}


def resolve(name: str) -> Path:
    """Give the folder of a model, fetched or made if need be. Raises `ModelError`."""
    with translating(f"cannot prepare {name}"):
        if name.startswith(PREFIX):
            return _with_weights(name, _prepared(name.removeprefix(PREFIX)))
        if name and (folder := Path(name).expanduser()).is_dir():
            return _with_weights(name, folder)
        if looks_like_a_path(name):
            raise ModelError(f"there is no folder {name!r}: name one, a hub id, or {_embedded_names()}")
        return _with_weights(name, hub.download(name))


def prepare_all(names: Sequence[str] | None = None) -> dict[str, Path]:
    """Resolve several models, all embedded ones if none is named, and give their folders."""
    chosen = [f"{PREFIX}{name}" for name in EMBEDDED] if names is None else names
    return {name: resolve(name) for name in dict.fromkeys(chosen)}


def looks_like_a_path(name: str) -> bool:
    """Tell whether a name that is no folder was meant as one, or can be nothing on the hub."""
    return Path(name).exists() or hub.HUB_ID.fullmatch(name) is None


def _prepared(name: str) -> Path:
    if name not in EMBEDDED:
        near = difflib.get_close_matches(name, EMBEDDED, n=1)
        hint = f": did you mean {PREFIX}{near[0]}?" if near else ""
        raise ModelError(f"there is no embedded model {name!r} among {_embedded_names()}{hint}")
    embedded = EMBEDDED[name]
    return build_once(cache_home() / "models" / embedded.folder, embedded.build) / embedded.part


def _embedded_names() -> str:
    return ", ".join(f"{PREFIX}{name}" for name in EMBEDDED)


def _with_weights(name: str, folder: Path) -> Path:
    if not any(folder.glob("*.safetensors")):
        advice = "remove it, and it is made anew" if name.startswith(PREFIX) else CONVERT
        raise ModelError(f"{folder} holds no .safetensors weights: {advice}")
    return folder

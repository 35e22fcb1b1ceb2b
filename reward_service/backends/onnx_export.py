"""Export a model to ONNX, for the engines that need a graph: traced from torch once, and cached."""

import hashlib
import json
import tempfile
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reward_service.backends.collate import collator_for
from reward_service.backends.model_folder import ModelFolder
from reward_service.backends.torch_backend import forward_for
from reward_service.backends.weights import load
from shared.model_store.cache import build_once, cache_home
from shared.model_store.progress import quiet_transformers

FORMAT = 4
"""Version of the traced graph."""
OPSET = 17
NAME = "model.onnx"
AXES = {1: ["tokens"], 2: ["texts", "longest"]}
"""Names of an input's axes, by its number of dimensions."""


def graph_of(folder: ModelFolder) -> Path | bytes:
    """Return the graph: its file in the cache, or its content if the cache is read-only, such as an image's."""
    target = cache_home() / "graphs" / _key(folder)
    try:
        return build_once(target, lambda into: trace(folder, into / NAME)) / NAME
    except OSError:
        with tempfile.TemporaryDirectory() as scratch:
            trace(folder, Path(scratch) / NAME)
            return (Path(scratch) / NAME).read_bytes()


class Traced(nn.Module):
    """A model as a function from a collator's arrays to logits, (texts, labels)."""

    def __init__(self, model: Any, *, types: bool = False) -> None:
        super().__init__()
        self.model = model
        self.inputs, self._forward = forward_for(model, types=types)

    def forward(self, *arrays: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        return self._forward(*arrays)


def trace(folder: ModelFolder, file: Path) -> None:
    """Write the graph of a model. The tracer's warnings of Python values are void: none depends on the texts."""
    with quiet_transformers(), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        traced = Traced(load(folder), types=folder.uses_types)
        traced.model.config.get_text_config().pad_token_id = folder.fixed_pad_token_id()
        arrays = example(folder, traced.inputs)
        torch.onnx.export(
            traced,
            tuple(arrays.values()),
            file,
            input_names=[*arrays],
            output_names=["logits"],
            dynamic_axes={name: dict(enumerate(AXES[array.dim()])) for name, array in arrays.items()},
            opset_version=OPSET,
            dynamo=False,
        )
    folder.check_unchanged()  # the graph is cached under the hash of these files


def example(folder: ModelFolder, inputs: Sequence[str]) -> dict[str, torch.Tensor]:
    """Return two texts of different lengths, so that the tracer takes no shape for a constant."""
    tokens = [text.tokens for text in folder.encode(["A short one.", "Another that is a little longer than it."])]
    arrays = collator_for(inputs).collate(tokens, folder.fixed_pad_token_id())
    return {name: torch.from_numpy(arrays[name]) for name in inputs}


def _key(folder: ModelFolder) -> str:
    """Return the cache key: a hash of all that a graph depends on."""
    values = [FORMAT, OPSET, folder.fingerprint, version("torch"), version("transformers")]
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]

"""Compute with ONNX Runtime, in float32, from the same torch model: its graph is traced once, at start."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnxruntime
import torch

from reward_service.backends.base import Logits, Tokens, padded
from reward_service.backends.model_folder import ModelFolder
from reward_service.backends.pytorch import load
from reward_service.backends.tracing import Traced, example, tracing
from reward_service.errors import ConfigError, raising

OPSET = 17
AXES = {0: "texts", 1: "tokens"}


class OnnxBackend:
    """A model in ONNX Runtime."""

    def __init__(self, folder: ModelFolder, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the event loop needs a core, too
        with raising(ConfigError, f"ONNX Runtime cannot run the model in {folder.path}"):
            graph = traced(folder)
            self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._pad_id = folder.pad_id

    def score(self, batch: Sequence[Tokens]) -> list[Logits]:
        """Pad to the longest and run one forward pass."""
        ids, mask = padded(batch, self._pad_id)  # (texts, tokens)
        return self._session.run(None, {"ids": ids, "mask": mask})[0].tolist()  # type: ignore[no-any-return]


def traced(folder: ModelFolder) -> bytes:
    """Give the model's graph in ONNX."""
    with tempfile.TemporaryDirectory() as scratch, tracing():
        file = Path(scratch) / "model.onnx"
        torch.onnx.export(
            Traced(load(folder)),
            example(folder),
            file,
            input_names=["ids", "mask"],
            output_names=["logits"],
            dynamic_axes={"ids": AXES, "mask": AXES},
            opset_version=OPSET,
            dynamo=False,
        )
        return file.read_bytes()

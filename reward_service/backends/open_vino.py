"""Compute with OpenVINO, from the same torch model: its graph is traced once, at start."""

from collections.abc import Sequence

import openvino

from reward_service.backends.base import Logits, Tokens, padded
from reward_service.backends.model_folder import ModelFolder
from reward_service.backends.pytorch import load
from reward_service.backends.tracing import Traced, example, tracing
from reward_service.errors import ConfigError, raising

PRECISION = {"float32": "f32", "bfloat16": "bf16"}


class OpenVinoBackend:
    """A model in OpenVINO, in `float32` or `bfloat16`."""

    def __init__(self, folder: ModelFolder, dtype: str, threads: int) -> None:
        options = {
            "INFERENCE_PRECISION_HINT": PRECISION[dtype],
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
        }
        with tracing(), raising(ConfigError, f"OpenVINO cannot run the model in {folder.path}"):
            graph = openvino.convert_model(Traced(load(folder)), example_input=example(folder))
            self._compiled = openvino.Core().compile_model(graph, "CPU", options)
        self._pad_id = folder.pad_id

    def score(self, batch: Sequence[Tokens]) -> list[Logits]:
        """Pad to the longest and run one forward pass."""
        ids, mask = padded(batch, self._pad_id)  # (texts, tokens)
        return self._compiled([ids, mask])[0].tolist()  # type: ignore[no-any-return]

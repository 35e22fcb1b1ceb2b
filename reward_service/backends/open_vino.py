"""Compute with OpenVINO the graph that was traced from the torch model."""

from collections.abc import Sequence

import openvino

from reward_service.backends.base import Logits, Tokens, padded
from reward_service.backends.model_folder import ModelFolder
from reward_service.backends.onnx_graph import graph_of
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
        with raising(ConfigError, f"OpenVINO cannot run the model in {folder.path}"):
            core = openvino.Core()
            self._compiled = core.compile_model(core.read_model(graph_of(folder)), "CPU", options)
        if (computes_in := self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()) != PRECISION[dtype]:
            raise ConfigError(f"OpenVINO has no {dtype} on this processor: it would compute in {computes_in}")
        self._pad_id = folder.pad_id

    def score(self, batch: Sequence[Tokens]) -> list[Logits]:
        """Pad to the longest and run one forward pass."""
        ids, mask = padded(batch, self._pad_id)  # (texts, tokens)
        return self._compiled([ids, mask])[0].tolist()  # type: ignore[no-any-return]

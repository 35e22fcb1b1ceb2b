"""ONNX Runtime in float32, on the graph traced from the torch model."""

from collections.abc import Sequence
from pathlib import Path

import onnxruntime

from reward_service.backends.base import Logits, Tokens
from reward_service.backends.collate import collator_for
from reward_service.backends.model_folder import ModelFolder
from reward_service.backends.onnx_export import graph_of
from reward_service.errors import ConfigError, translating


class OnnxBackend:
    """A model in ONNX Runtime: its traced graph, or another one with the same inputs and outputs."""

    numeric_settings: Sequence[float | str] = ()

    def __init__(self, folder: ModelFolder, threads: int, graph: Path | None = None) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.force_spinning_stop", "1")  # leave a core to the event loop
        with translating(ConfigError, f"ONNX Runtime cannot run the model in {folder.path}; choose backend: torch"):
            model = graph or graph_of(folder)
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._collator = collator_for([array.name for array in self._session.get_inputs()])
        self._pad_token_id = folder.fixed_pad_token_id()
        self.padding_cost = self._collator.padding_cost

    def forward(self, batch: Sequence[Tokens]) -> list[Logits]:
        """Run one forward pass."""
        arrays = self._collator.collate(batch, self._pad_token_id)
        return self._session.run(None, arrays)[0].tolist()  # type: ignore[no-any-return]

"""Compute with OpenVINO, from the same torch model: its graph is traced once, at start."""

from collections.abc import Sequence
from typing import Any

import openvino
import torch
from torch import nn

from reward_service.backends.base import Logits, Tokens, padded
from reward_service.backends.model_folder import ModelFolder
from reward_service.backends.pytorch import forward_of, load
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
            graph = openvino.convert_model(Traced(load(folder)), example_input=example(folder))
            self._compiled = openvino.Core().compile_model(graph, "CPU", options)
        self._pad_id = folder.pad_id

    def score(self, batch: Sequence[Tokens]) -> list[Logits]:
        """Pad to the longest and run one forward pass."""
        ids, mask = padded(batch, self._pad_id)  # (texts, tokens)
        return self._compiled([ids, mask])[0].tolist()  # type: ignore[no-any-return]


class Traced(nn.Module):
    """A model as a function from ids and mask, (texts, tokens), to logits, (texts, labels)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Give the logits."""
        return forward_of(self.model)(ids, mask)


def example(folder: ModelFolder) -> tuple[torch.Tensor, torch.Tensor]:
    """Give two texts of unlike length, so that nothing of their shape is taken for granted."""
    tokens = [text.tokens for text in folder.encode(["A short one.", "Another that is a little longer than it."])]
    ids, mask = map(torch.from_numpy, padded(tokens, folder.pad_id))
    return ids, mask

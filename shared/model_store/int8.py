"""Symmetric int8 quantization of weights, one scale per row.

A model whose weights are already multiples of their row's scale can be computed in int8 without any weight error.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

INT8_MAX = 127


def quantize_rows(weights: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantize a matrix, (outputs, inputs). Returns int8 values, (outputs, inputs), and scales, (outputs, 1)."""
    scales = np.abs(weights).max(axis=1, keepdims=True) / np.float32(INT8_MAX)
    scales[scales == 0] = 1
    return np.rint(weights / scales).astype(np.int8), scales


@torch.no_grad()
def round_weights(model: Any) -> None:
    """Round the weights of every linear layer in place to values that int8 represents exactly."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            values, scales = quantize_rows(layer.weight.numpy())
            layer.weight.copy_(torch.from_numpy(values * scales))

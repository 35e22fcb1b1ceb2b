"""Weights of 8 bits: each row of a layer is made of whole multiples of one step, at most 127 of them either way.

A model whose weights are such multiples already can be computed in 8-bit integers, and its weights lose nothing by it.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

INT8_MAX = 127


def quantize_rows(weights: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Give the nearest multiples, (outputs, inputs), and each row's step, (outputs, 1)."""
    steps = np.abs(weights).max(axis=1, keepdims=True) / np.float32(INT8_MAX)
    steps[steps == 0] = 1
    return np.rint(weights / steps).astype(np.int8), steps


@torch.no_grad()
def round_weights(model: Any) -> None:
    """Put each linear layer's weights to the nearest multiples, in place."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            whole, steps = quantize_rows(layer.weight.numpy())
            layer.weight.copy_(torch.from_numpy(whole * steps))

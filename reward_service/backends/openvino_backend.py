"""OpenVINO in floats or 8-bit integers, on the graph traced from the torch model."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino
from openvino import opset13 as ops

from reward_service.backends.base import FLOAT_LAYER_SHARE, QUANT_GROUP_SIZE, Logits, Tokens
from reward_service.backends.collate import collator_for
from reward_service.backends.model_folder import ModelFolder
from reward_service.backends.onnx_export import graph_of
from reward_service.errors import ConfigError, translating
from shared.model_store.int8 import quantize_rows

PRECISION = {"float32": "f32", "bfloat16": "bf16"}


class OpenVinoBackend:
    """A model in OpenVINO, in `float32`, `bfloat16`, or `int8` (weights and activations).

    In `int8` the scales of weights are static and those of activations dynamic, token by token, so that they do not
    depend on the rest of the batch. Everything else is computed in bfloat16 if the processor supports it.
    """

    def __init__(self, folder: ModelFolder, dtype: str, threads: int) -> None:
        with translating(ConfigError, f"OpenVINO cannot run the model in {folder.path}; choose backend: torch"):
            core = openvino.Core()
            model = core.read_model(graph_of(folder))
            if dtype == "int8":
                quantize_weights(model)
            precision = PRECISION.get(dtype) or _best_float(core)
            self.numeric_settings: Sequence[float | str] = (
                (QUANT_GROUP_SIZE, FLOAT_LAYER_SHARE, precision) if dtype == "int8" else ()
            )
            self._compiled = core.compile_model(model, "CPU", _options(precision, threads))
        if (actual := self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()) != precision:
            raise ConfigError(
                f"OpenVINO has no {dtype} on this processor, where it computes in {actual}: choose that dtype"
            )
        self._collator = collator_for([array.get_any_name() for array in self._compiled.inputs])
        self._pad_token_id = folder.fixed_pad_token_id()
        self.padding_cost = self._collator.padding_cost

    def forward(self, batch: Sequence[Tokens]) -> list[Logits]:
        """Run one forward pass."""
        arrays = self._collator.collate(batch, self._pad_token_id)
        return self._compiled(arrays)[0].tolist()  # type: ignore[no-any-return]


def _options(precision: str, threads: int) -> dict[str, Any]:
    return {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": str(QUANT_GROUP_SIZE),  # applies to integer weights only
    }


def _best_float(core: Any) -> str:
    return "bf16" if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "f32"


def quantize_weights(model: Any) -> None:
    """Quantize the weights of a graph's matrix products to int8, except the first ones and the last, the head."""
    products = [node for node in model.get_ordered_ops() if _has_weights(node)]
    for product in products[int(FLOAT_LAYER_SHARE * len(products)) : -1]:
        weights = product.input_value(1).get_node().get_data()
        by_output = weights if product.get_attributes()["transpose_b"] else weights.T
        by_output = np.ascontiguousarray(by_output, dtype=np.float32)  # (outputs, inputs)
        integers, scales = quantize_rows(by_output)  # (outputs, inputs), (outputs, 1)
        dequantized = ops.multiply(ops.convert(ops.constant(integers), "f32"), ops.constant(scales))
        replacement = ops.matmul(product.input_value(0), dequantized, transpose_a=False, transpose_b=True)
        product.output(0).replace(replacement.output(0))


def _has_weights(node: Any) -> bool:
    """Return whether a node multiplies by a constant matrix."""
    if node.get_type_name() != "MatMul" or node.get_attributes()["transpose_a"]:
        return False
    right = node.input_value(1).get_node()
    return bool(right.get_type_name() == "Constant" and len(right.shape) == 2)

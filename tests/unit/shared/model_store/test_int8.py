import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from shared.model_store.int8 import INT8_MAX, quantize_rows, round_weights

FINITE = st.floats(-8, 8, width=32)
MATRICES = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=16), elements=FINITE)


@given(MATRICES)
def test_rounding_error_is_half_a_scale(weights):
    """No weight changes by more than half of its row's scale."""
    whole, steps = quantize_rows(weights)
    assert np.all(np.abs(whole * steps - weights) <= 0.5001 * steps + 1e-30)
    assert np.abs(whole.astype(int)).max() <= INT8_MAX


@given(MATRICES)
def test_quantization_is_idempotent(weights):
    """Quantizing dequantized weights again returns the same values."""
    whole, steps = quantize_rows(weights)
    again, _ = quantize_rows(whole * steps)
    assert np.array_equal(again, whole)


def test_only_linear_weights_are_rounded():
    """The weights of all linear layers are rounded, and nothing else."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(4, 3), nn.Sequential(nn.Linear(3, 5)), nn.LayerNorm(5))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    round_weights(model)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"1.0.weight"}

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
def test_no_weight_moves_further_than_half_a_step(weights):
    whole, steps = quantize_rows(weights)
    assert np.all(np.abs(whole * steps - weights) <= 0.5001 * steps + 1e-30)
    assert np.abs(whole.astype(int)).max() <= INT8_MAX


@given(MATRICES)
def test_rounded_weights_are_given_back_as_they_are(weights):
    whole, steps = quantize_rows(weights)
    again, _ = quantize_rows(whole * steps)
    assert np.array_equal(again, whole)


def test_every_linear_layer_of_a_model_is_rounded_and_nothing_else():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(4, 3), nn.Sequential(nn.Linear(3, 5)), nn.LayerNorm(5))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    round_weights(model)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"1.0.weight"}

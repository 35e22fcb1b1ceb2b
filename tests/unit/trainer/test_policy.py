import pytest
import torch
from torch import nn

from trainer.policy import row_major_weights, use_column_major_weights


@pytest.fixture
def tied():
    """A model whose head is its embedding, as small policies have it."""
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {"embed": nn.Embedding(11, 6), "inner": nn.Linear(6, 6), "head": nn.Linear(6, 11, bias=False)}
    )
    model["head"].weight = model["embed"].weight
    return model


def run(model):
    return model["head"](torch.tanh(model["inner"](model["embed"](torch.arange(5)))))


def test_weights_stored_by_columns_compute_the_same(tied):
    before = run(tied)
    use_column_major_weights(tied)
    assert not tied["inner"].weight.is_contiguous()
    assert torch.allclose(run(tied), before, atol=1e-6)


def test_gradients_and_updates_reach_weights_stored_by_columns(tied):
    use_column_major_weights(tied)
    optimizer = torch.optim.AdamW(tied.parameters(), lr=0.1, fused=True)
    before = run(tied).detach()
    run(tied).square().sum().backward()
    optimizer.step()
    assert run(tied).square().sum() < before.square().sum()


def test_for_a_file_weights_are_stored_by_rows_and_stay_tied(tied):
    use_column_major_weights(tied)
    with row_major_weights(tied):
        assert all(weight.is_contiguous() for weight in tied.parameters())
        assert tied["head"].weight is tied["embed"].weight
    assert not tied["inner"].weight.is_contiguous()

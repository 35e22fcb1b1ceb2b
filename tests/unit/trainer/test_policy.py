import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from tests.small_models import save_folder
from trainer.policy import load_policy, row_major_weights, use_column_major_weights


@pytest.fixture
def tied():
    """A model whose head is its embedding, as in small policies."""
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {"embed": nn.Embedding(11, 6), "inner": nn.Linear(6, 6), "head": nn.Linear(6, 11, bias=False)}
    )
    model["head"].weight = model["embed"].weight
    return model


def forward(model):
    return model["head"](torch.tanh(model["inner"](model["embed"](torch.arange(5)))))


def test_column_major_output(tied):
    """Column-major weights give the same output."""
    before = forward(tied)
    use_column_major_weights(tied)
    assert not tied["inner"].weight.is_contiguous()
    assert torch.allclose(forward(tied), before, atol=1e-6)


def test_column_major_training(tied):
    """Gradients and updates reach column-major weights."""
    use_column_major_weights(tied)
    optimizer = torch.optim.AdamW(tied.parameters(), lr=0.1, fused=True)
    before = forward(tied).detach()
    forward(tied).square().sum().backward()
    optimizer.step()
    assert forward(tied).square().sum() < before.square().sum()


def test_row_major_for_files(tied):
    """While a file is written, weights are contiguous and stay tied; afterwards they are column-major again."""
    use_column_major_weights(tied)
    with row_major_weights(tied):
        assert all(weight.is_contiguous() for weight in tied.parameters())
        assert tied["head"].weight is tied["embed"].weight
    assert not tied["inner"].weight.is_contiguous()


def test_logits_of_a_slice(tmp_path):
    """The head of a loaded policy multiplies a contiguous copy, and the logits of the last tokens are the model's."""
    model, _ = save_folder(tmp_path, LlamaForCausalLM, LlamaConfig)
    policy, ids, heads = load_policy(str(tmp_path)), torch.arange(2, 18).reshape(2, 8), []
    policy.lm_head.register_forward_hook(lambda _, inputs, output: heads.append(inputs[0].is_contiguous()))
    logits = policy(ids, logits_to_keep=3).logits
    assert torch.allclose(logits, model(ids).logits[:, -3:], atol=1e-5)
    assert heads == [True]

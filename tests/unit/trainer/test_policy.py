import pytest
import torch
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    ViTConfig,
    ViTModel,
)

from tests.small_models import save_folder
from trainer.errors import TrainerError
from trainer.policy import load_policy, load_tokenizer, row_major_weights, use_column_major_weights


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


@pytest.mark.parametrize(
    ("model_class", "config_class", "trained"),
    [
        (LlamaForCausalLM, LlamaConfig, {"model.layers.1", "model.norm", "lm_head"}),
        (GPT2LMHeadModel, GPT2Config, {"transformer.h.1", "transformer.ln_f"}),  # its head is its embedding
        (OPTForCausalLM, OPTConfig, {"model.decoder.layers.1", "model.decoder.final_layer_norm"}),
    ],
)
def test_frozen_layers(tmp_path, model_class, config_class, trained):
    """The embeddings, of positions too, and the lowest layers of any architecture are frozen, and nothing else."""
    save_folder(tmp_path, model_class, config_class)
    parameters = load_policy(str(tmp_path), frozen_layers=1).named_parameters()
    learned = {name for name, weights in parameters if weights.requires_grad}
    assert {prefix for prefix in trained if any(name.startswith(f"{prefix}.") for name in learned)} == trained
    assert all(name.startswith(tuple(trained)) for name in learned)
    with pytest.raises(TrainerError, match="the policy has 2 layers; freeze fewer than that"):
        load_policy(str(tmp_path), frozen_layers=2)


def test_not_a_policy(tmp_path):
    """A model that generates no text, and a folder without a tokenizer, are errors that name them."""
    ViTModel(ViTConfig(num_hidden_layers=1, hidden_size=8, intermediate_size=8, num_attention_heads=1)).save_pretrained(
        tmp_path
    )
    with pytest.raises(TrainerError, match=f"{tmp_path} cannot be a policy: Unrecognized configuration class"):
        load_policy(str(tmp_path))
    with pytest.raises(TrainerError, match=f"{tmp_path} has no tokenizer that can be loaded: "):
        load_tokenizer(str(tmp_path))

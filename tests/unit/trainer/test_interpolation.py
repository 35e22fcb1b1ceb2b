import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.small_models import small_model, small_tokenizer
from trainer.interpolation import interpolate


@torch.no_grad()
def base_and_policy(dtype=torch.float32, **config):
    """Return a model, and one of a dtype with other weights."""
    base, policy = (small_model(LlamaForCausalLM, LlamaConfig, small_tokenizer(), **config) for _ in range(2))
    policy = policy.to(dtype)
    for weight in policy.parameters():
        weight += torch.randn_like(weight)
    return base, policy


def weights_of(model):
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_between_two_policies(tied, dtype):
    """Each weight lies at its share of the way from base to policy, tied weights too, in the policy's precision."""
    base, policy = base_and_policy(dtype, tie_word_embeddings=tied)
    start, end = weights_of(base), weights_of(policy)
    interpolate(policy, base, 0.75)
    for name, weight in weights_of(policy).items():
        expected = start[name] + 0.75 * (end[name].float() - start[name])
        assert weight.dtype == dtype
        assert torch.allclose(weight.float(), expected, atol=1e-6, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5)


def test_end_of_the_way():
    """A share of 1 is the policy, bit by bit."""
    base, policy = base_and_policy()
    end = weights_of(policy)
    interpolate(policy, base, 1.0)
    assert all(torch.equal(weight, end[name]) for name, weight in weights_of(policy).items())

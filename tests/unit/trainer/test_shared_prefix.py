import copy
import inspect
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PhiConfig,
    Qwen2Config,
)
from trl import RLOOTrainer
from trl.trainer.utils import add_fused_lm_head

from tests.small_models import SIZE
from trainer import shared_prefix
from trainer.online_trainers import RecordedRLOOTrainer
from trainer.shared_prefix import compute_each_row, share_prefix, shared_length

PREFIX, COLUMNS = 12, 30
ROWS = ((0, 30), (3, 28), (5, 30), (1, 20))
"""The columns at which each row of a batch starts and ends."""
NO_DROPOUT = {"attention_dropout": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "hidden_dropout": 0.0}
SHARING = [LlamaConfig, Qwen2Config, PhiConfig]


@pytest.fixture
def passes(monkeypatch):
    """Return the list that each forward pass with a shared prefix is added to."""
    passes, compute = [], shared_prefix.forward_with_prefix
    monkeypatch.setattr(
        shared_prefix, "forward_with_prefix", lambda *args, **kwargs: passes.append(1) or compute(*args, **kwargs)
    )
    return passes


def pair(config, **settings):
    """Return a model that shares prefixes, and its copy that does not."""
    torch.manual_seed(0)
    sizes = SIZE | {"num_key_value_heads": SIZE["num_attention_heads"], "vocab_size": 100, "initializer_range": 0.3}
    plain = AutoModelForCausalLM.from_config(config(**sizes | NO_DROPOUT | settings)).double().train()
    sharing = copy.deepcopy(plain)
    share_prefix(sharing)
    return sharing, plain


def batch(rows=ROWS):
    """Return ids and mask, (rows, columns), padded on both sides, whose rows begin with the same tokens."""
    torch.manual_seed(1)
    ids, mask = (torch.zeros(len(rows), COLUMNS, dtype=torch.long) for _ in range(2))
    prefix = torch.randint(3, 100, (PREFIX,))
    for row, (start, end) in enumerate(rows):
        ids[row, start:end] = torch.randint(3, 100, (end - start,))
        ids[row, start : start + PREFIX], mask[row, start:end] = prefix, 1
    return ids, mask


def outcome(model, ids, mask, **inputs):
    """Return the log-probabilities of all tokens, and the gradients of a sum of them."""
    model.zero_grad()
    logps = model(input_ids=ids, attention_mask=mask, **inputs).logits.log_softmax(-1)[mask.bool()]
    (logps * torch.linspace(0, 1, logps.numel()).reshape(logps.shape)).sum().backward()
    return [logps.detach(), *(weight.grad for weight in model.parameters() if weight.grad is not None)]


def test_each_row_again(passes):
    """A model that shared prefixes computes each row again."""
    sharing, _ = pair(SHARING[0])
    for shares in (1, 0):
        sharing(*batch())
        assert len(passes) == shares
        compute_each_row(sharing)
        passes.clear()


@pytest.mark.parametrize("config", SHARING)
@pytest.mark.parametrize("positions", [False, True])
def test_outputs_and_gradients(config, positions, passes):
    """Log-probabilities and gradients are those of a model that computes each row in full."""
    sharing, plain = pair(config)
    ids, mask = batch()
    inputs = {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)} if positions else {}
    for value, expected in zip(outcome(sharing, ids, mask, **inputs), outcome(plain, ids, mask, **inputs), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert len(passes) == 1


@pytest.mark.parametrize("config", SHARING)
def test_generation(config, passes):
    """Completions are the same; their keys and values lie where the padded batch has its tokens."""
    sharing, plain = pair(config)
    ids, mask = batch(((0, 30), (5, 30)))
    texts = [
        model.eval().generate(input_ids=ids, attention_mask=mask, max_new_tokens=8, do_sample=False, pad_token_id=0)
        for model in (sharing, plain)
    ]
    assert torch.equal(*texts)
    assert len(passes) == 1


@pytest.mark.parametrize("config", [MistralConfig, BloomConfig, GPTNeoXConfig, GPT2Config])
def test_not_shared(config, passes):
    """A sliding window, ALiBi, dropout, or absolute positions counted in columns: each row is computed in full."""
    dropout = {"hidden_dropout": 0.1, "attention_dropout": 0.1} if config is GPTNeoXConfig else {}
    sharing, _ = pair(config, **dropout)
    outcome(sharing, *batch())
    assert passes == []


def test_boolean_mask(passes):
    """A mask of booleans is that of the same numbers."""
    sharing, _ = pair(LlamaConfig)
    ids, mask = batch()
    assert torch.equal(outcome(sharing, ids, mask.bool())[0], outcome(sharing, ids, mask)[0])
    assert len(passes) == 2


def test_checkpointed_gradients(passes):
    """With gradient checkpointing, which allows no cache, each row is computed in full."""
    sharing, _ = pair(LlamaConfig)
    sharing.gradient_checkpointing_enable()
    outcome(sharing, *batch())
    assert passes == []


def test_copied(passes):
    """A copy computes with its own weights."""
    sharing, _ = pair(LlamaConfig)
    copied = copy.deepcopy(sharing)
    with torch.no_grad():
        copied.model.layers[0].self_attn.v_proj.weight.zero_()
    assert not torch.allclose(outcome(copied, *batch())[0], outcome(sharing, *batch())[0])
    assert len(passes) == 2


def test_logps_are_those_of_trl():
    """Log-probabilities and entropies of completions, batch by batch, are those that TRL computes."""
    model = pair(LlamaConfig)[0].float()
    add_fused_lm_head(model, temperature=0.7, outputs=("log_probs", "entropy"))
    accelerator = SimpleNamespace(autocast=nullcontext)
    trainer = SimpleNamespace(accelerator=accelerator, temperature=0.7, model=model, args=None)
    ids, mask = batch()
    args = (model, ids, mask, COLUMNS - 15, 2, True)
    logps, entropies, _ = RecordedRLOOTrainer._get_per_token_logps_and_entropies(trainer, *args)
    expected_logps, expected_entropies, _ = inspect.unwrap(RLOOTrainer._get_per_token_logps_and_entropies)(
        trainer, *args
    )
    is_token = mask[:, 15:].bool()  # TRL leaves 0 where padding is
    torch.testing.assert_close(logps[is_token], expected_logps[is_token], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(entropies[is_token], expected_entropies[is_token], rtol=1e-5, atol=1e-5)


def test_shared_length():
    """Rows share the tokens that all of them begin with, and each keeps at least one of its own."""
    assert shared_length([[1, 2, 3], [1, 2, 4, 5]]) == 2
    assert shared_length([[1, 2], [1, 2]]) == 1
    assert shared_length([[1], [2]]) == 0

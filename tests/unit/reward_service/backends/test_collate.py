import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig, BertForSequenceClassification, DistilBertConfig
from transformers import DistilBertForSequenceClassification as DistilBert

from reward_service.backends.collate import bucket_size, collator_for, packed, padded
from reward_service.backends.torch_backend import forward_for

BATCHES = st.lists(st.lists(st.integers(1, 49), min_size=1, max_size=24), min_size=1, max_size=9)


@given(BATCHES)
def test_packed_ids(batch):
    """A packed batch holds all tokens, one text after the other, with their positions."""
    arrays = packed(batch)
    count = sum(map(len, batch))
    assert arrays["ids"][:count].tolist() == [token for tokens in batch for token in tokens]
    assert arrays["positions"][:count].tolist() == [place for tokens in batch for place in range(len(tokens))]


@given(BATCHES)
def test_gather_and_scatter(batch):
    """`gather_index` leads from packed to padded rows, and `scatter_index` back."""
    here, there = packed(batch), padded(batch, pad_token_id=0)
    longest, count = max(map(len, batch)), sum(map(len, batch))
    assert np.array_equal(here["mask"][:, :longest], there["mask"])
    assert here["mask"].sum() == count
    rows = here["ids"][here["gather_index"]]  # (texts, longest)
    assert np.array_equal((rows * here["mask"])[:, :longest], there["ids"])
    assert np.array_equal(rows.ravel()[here["scatter_index"]][:count], here["ids"][:count])


@given(st.integers(1, 1_000_000))
def test_bucket_size(size):
    """A bucketed size is little larger, and one of few."""
    assert size <= bucket_size(size) < size + 8 + size / 8
    assert bucket_size(bucket_size(size)) == bucket_size(size)
    assert len({bucket_size(size) for size in range(513, 1025)}) <= 9


@pytest.fixture(scope="module")
def bert():
    torch.manual_seed(1)
    size = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 32, "max_position_embeddings": 32}
    return BertForSequenceClassification(BertConfig(**size, num_hidden_layers=3, num_attention_heads=2)).eval()


@pytest.fixture(scope="module")
def distilbert():
    torch.manual_seed(1)
    size = {"vocab_size": 50, "dim": 16, "hidden_dim": 32, "max_position_embeddings": 32}
    return DistilBert(DistilBertConfig(**size, n_layers=2, n_heads=2)).eval()


@pytest.mark.parametrize("name", ["bert", "distilbert"])
@settings(max_examples=40)
@given(batch=BATCHES)
@torch.inference_mode()
def test_logits_equal_own(name, batch, request):
    """Packed or padded, the logits are the model's own."""
    model = request.getfixturevalue(name)
    inputs, forward = forward_for(model)
    arrays, plain = collator_for(inputs).collate(batch, 0), padded(batch, pad_token_id=0)
    logits = forward(*(torch.from_numpy(arrays[name]) for name in inputs))
    own = model(input_ids=torch.from_numpy(plain["ids"]), attention_mask=torch.from_numpy(plain["mask"])).logits
    assert torch.allclose(logits, own, atol=1e-5)


def test_collator_by_model(bert, distilbert):
    """BERT is packed, any other model padded."""
    assert "scatter_index" in forward_for(bert)[0]
    assert list(forward_for(distilbert)[0]) == ["ids", "mask"]

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig, BertForSequenceClassification

from shared.model_store.embedded import training
from shared.model_store.embedded.training import Recipe


def tiny_model(seed: int = 0) -> BertForSequenceClassification:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        num_labels=3,
    )
    return BertForSequenceClassification(config).eval()


@pytest.mark.parametrize("lengths", [[4, 9, 2], [5], [7, 7]])
def test_cls_only_forward_equals_the_model(lengths):
    """The CLS-only forward pass returns the model's own logits."""
    model = tiny_model()
    ids, mask = training.pad([list(range(1, length + 1)) for length in lengths])
    expected = model(input_ids=ids, attention_mask=mask).logits
    assert torch.allclose(training.forward(model, ids, mask), expected, atol=1e-6)


def test_predictions_are_in_text_order():
    """Predictions are in the order of the texts, and do not depend on batching."""
    model, tokens = tiny_model(), [[3] * 9, [5, 6], [7] * 4, [8]]
    together = training.predict(model, tokens, batch_size=2)
    alone = torch.cat([training.predict(model, [ids]) for ids in tokens])
    assert torch.allclose(together, alone, atol=1e-6)


@settings(max_examples=30)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=300), st.integers(1, 9), st.integers(1, 3))
def test_every_epoch_has_every_text_once(lengths, size, epochs):
    """Every epoch contains every text exactly once."""
    recipe = Recipe(batch_size=size, bucket_batches=4, epochs=epochs)
    seen = sorted(index for batch in training.plan_batches(lengths, recipe) for index in batch)
    assert seen == sorted(list(range(len(lengths))) * epochs)


def test_batches_have_little_padding():
    """Batches contain texts of similar length, in an order that depends on the seed."""
    lengths = list(range(1, 61)) * 20
    batches = training.plan_batches(lengths, Recipe())
    padded = sum(max(lengths[index] for index in batch) * len(batch) for batch in batches)
    assert padded < 1.1 * sum(lengths)
    assert batches != training.plan_batches(lengths, Recipe(seed=1))


def trained_weights(recipe: Recipe, global_seed: int) -> dict[str, torch.Tensor]:
    model = tiny_model()
    torch.manual_seed(global_seed)
    tokens = [[1 + (index % 7), 10 + index % 40, 9] for index in range(60)]
    training.train(model, tokens, [float(index % 9 - 4) for index in range(60)], recipe)
    return model.state_dict()


def test_training_uses_only_the_recipes_seed():
    """The weights depend on the recipe's seed, and not on the global one."""
    first, again, other = trained_weights(Recipe(), 1), trained_weights(Recipe(), 2), trained_weights(Recipe(seed=1), 1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])


def test_frozen_layers_do_not_change():
    """Training does not change the embeddings or the frozen layers."""
    before, after = tiny_model().state_dict(), trained_weights(Recipe(frozen_layers=2), 0)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert not any(
        name.startswith(("bert.embeddings", "bert.encoder.layer.0", "bert.encoder.layer.1")) for name in changed
    )
    assert any(name.startswith("bert.encoder.layer.2") for name in changed)


def test_neutral_sentences_train_the_rating_only():
    """A nearly neutral sentence adds no classification loss."""
    outputs = torch.tensor([[5.0, -5.0, 0.1]])
    assert training.compute_loss(outputs, torch.tensor([0.2]), Recipe()).item() == pytest.approx(0.0, abs=1e-6)
    assert training.compute_loss(outputs, torch.tensor([0.6]), Recipe()).item() > 9

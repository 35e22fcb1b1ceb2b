"""Train one encoder to say whether a text is positive, and how much. CPU, fp32, one pass over the data.

Enters: a model with three outputs (negative, positive, rating), token lists, ratings, a recipe. Leaves: the
trained model. Never: a random number from outside the recipe's seed, so that the same machine with the same
number of threads makes the same weights again.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from shared.model_store.bert_cls_only import forward
from shared.model_store.progress import Progress


@dataclass(frozen=True)
class Recipe:
    """All that training depends on besides the data."""

    seed: int = 0
    epochs: int = 1
    batch_size: int = 16
    bucket_batches: int = 32
    """Batches are cut from the sorted texts of so many random ones: little padding, still shuffled."""
    learning_rate: float = 2e-4
    head_factor: float = 5.0
    """How much faster pooler and head learn: they begin with nothing to lose."""
    warmup_share: float = 1 / 16
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    max_tokens: int = 56
    """One text in a hundred is longer; its end is not read in training."""
    frozen_layers: int = 1
    """Lowest layers that keep their weights, as the embeddings do."""
    clear_from: float = 0.5
    """A sentence counts as negative or positive from this |rating| on; nearer to 0 people disagree."""
    rating_unit: float = 2.0
    """The third output is the rating divided by this, so that both losses are of one size."""


def freeze(model: Any, layers: int) -> None:
    """Keep embeddings and the lowest layers as they are: cheaper, and no word unlearns what it means."""
    for module in (model.bert.embeddings, *model.bert.encoder.layer[:layers]):
        module.requires_grad_(False)


def seed_head(model: Any, seed: int) -> None:
    """Draw the new head's weights from a generator of its own."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        model.classifier.weight.normal_(0.0, 0.02, generator=generator)
        model.classifier.bias.zero_()


def plan_batches(lengths: Sequence[int], recipe: Recipe) -> list[list[int]]:
    """Cut every epoch's shuffled texts into batches of about one length, in shuffled order."""
    shuffler, batches = random.Random(recipe.seed), []
    for _ in range(recipe.epochs):
        order = list(range(len(lengths)))
        shuffler.shuffle(order)
        epoch = [
            batch
            for bucket in _chunks(order, recipe.batch_size * recipe.bucket_batches)
            for batch in _chunks(sorted(bucket, key=lengths.__getitem__), recipe.batch_size)
        ]
        shuffler.shuffle(epoch)
        batches += epoch
    return batches


def _chunks(items: list[int], size: int) -> Iterator[list[int]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def train(model: Any, tokens: Sequence[list[int]], ratings: Sequence[float], recipe: Recipe) -> None:
    """Train in place, without dropout: in one pass nothing is seen twice, so there is nothing to memorise."""
    model.eval()
    seed_head(model, recipe.seed)
    freeze(model, recipe.frozen_layers)
    batches = plan_batches([len(ids) for ids in tokens], recipe)
    optimizer, schedule = _optimizer(model, recipe, len(batches))
    targets, progress = torch.tensor(ratings), Progress("training on the ratings", len(batches))
    for done, batch in enumerate(batches, start=1):
        outputs = forward(model, *pad([tokens[index] for index in batch]))
        loss: Any = loss_of(outputs, targets[batch], recipe)
        loss.backward()
        nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], recipe.clip_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        progress.step(done)


def _optimizer(model: Any, recipe: Recipe, steps: int) -> tuple[Any, Any]:
    """Give AdamW, and a rate that rises for a while and then falls to 0."""
    groups: dict[float, list[Tensor]] = {1.0: [], recipe.head_factor: []}
    for name, weights in model.named_parameters():
        if weights.requires_grad:
            groups[recipe.head_factor if "pooler" in name or "classifier" in name else 1.0].append(weights)
    rates = [{"params": weights, "lr": recipe.learning_rate * factor} for factor, weights in groups.items()]
    optimizer = torch.optim.AdamW(rates, weight_decay=recipe.weight_decay, fused=True)
    warmup = max(1, int(steps * recipe.warmup_share))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))
    )
    return optimizer, schedule


def loss_of(outputs: Tensor, ratings: Tensor, recipe: Recipe) -> Tensor:
    """Give the loss: cross entropy of the sign where it is clear, squared error of the rating everywhere."""
    clear = ratings.abs() >= recipe.clear_from
    sign = cross_entropy(outputs[:, :2], (ratings > 0).long(), reduction="none")  # (batch,)
    return (sign * clear).mean() + mse_loss(outputs[:, 2], ratings / recipe.rating_unit)


def pad(tokens: Sequence[list[int]], pad_id: int = 0) -> tuple[Tensor, Tensor]:
    """Give ids and mask, as wide as the longest."""
    width = max(map(len, tokens))
    ids = torch.tensor([row + [pad_id] * (width - len(row)) for row in tokens])  # (batch, tokens)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in tokens])
    return ids, mask


@torch.inference_mode()
def predict(model: Any, tokens: Sequence[list[int]], batch_size: int = 64) -> Tensor:
    """Give the outputs for every text, in order, computed in batches of about one length."""
    outputs = torch.zeros(len(tokens), 3)  # (texts, negative | positive | rating)
    for batch in _chunks(sorted(range(len(tokens)), key=lambda index: len(tokens[index])), batch_size):
        outputs[batch] = forward(model, *pad([tokens[index] for index in batch]))
    return outputs

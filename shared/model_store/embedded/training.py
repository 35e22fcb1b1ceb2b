"""Train an encoder to classify the sentiment of a text and to predict its rating. CPU, float32, one epoch.

In: a model with three outputs (negative, positive, rating), token ids, ratings, a recipe. Out: the trained model. All
randomness comes from the recipe's seed: the same machine with the same number of threads makes the same weights again.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from shared.model_store.bert_cls_only import forward
from shared.model_store.progress import ProgressLine


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters of the training."""

    seed: int = 0
    epochs: int = 1
    batch_size: int = 16
    bucket_batches: int = 32
    """Batches per length-sorted bucket: little padding, but still shuffled."""
    learning_rate: float = 2e-4
    head_factor: float = 5.0
    """Learning rate multiplier of the pooler and the new head."""
    warmup_share: float = 1 / 16
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    max_tokens: int = 56
    """Training texts are truncated to this length; one in a hundred is longer."""
    frozen_layers: int = 1
    """Number of lowest layers that are frozen, as the embeddings are."""
    clear_from: float = 0.5
    """Smallest |rating| of a clearly negative or positive sentence; nearer to 0 raters disagree."""
    rating_unit: float = 2.0
    """The third output is the rating divided by this, so that both losses have a similar magnitude."""


def freeze(model: Any, layers: int) -> None:
    """Freeze the embeddings and the lowest layers: cheaper, and word embeddings keep their meaning."""
    for module in (model.bert.embeddings, *model.bert.encoder.layer[:layers]):
        module.requires_grad_(False)


def init_head(model: Any, seed: int) -> None:
    """Initialize the classifier head from its own random generator."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        model.classifier.weight.normal_(0.0, 0.02, generator=generator)
        model.classifier.bias.zero_()


def plan_batches(lengths: Sequence[int], recipe: Recipe) -> list[list[int]]:
    """Return the batches of all epochs as item indices: texts of similar length together, in random order."""
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
    """Train in place. There is no dropout, since one epoch cannot memorize the data."""
    model.eval()
    init_head(model, recipe.seed)
    freeze(model, recipe.frozen_layers)
    batches = plan_batches([len(ids) for ids in tokens], recipe)
    optimizer, schedule = _optimizer(model, recipe, len(batches))
    targets, progress = torch.tensor(ratings), ProgressLine("training on the ratings", len(batches))
    for done, batch in enumerate(batches, start=1):
        outputs = forward(model, *pad([tokens[index] for index in batch]))
        loss: Any = compute_loss(outputs, targets[batch], recipe)
        loss.backward()
        nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], recipe.clip_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        progress.update(done)


def _optimizer(model: Any, recipe: Recipe, steps: int) -> tuple[Any, Any]:
    """Return AdamW and its schedule: linear warmup, then linear decay to 0."""
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


def compute_loss(outputs: Tensor, ratings: Tensor, recipe: Recipe) -> Tensor:
    """Return the sum of the cross entropy of clear signs and the squared error of all ratings."""
    clear = ratings.abs() >= recipe.clear_from
    sign = cross_entropy(outputs[:, :2], (ratings > 0).long(), reduction="none")  # (batch,)
    return (sign * clear).mean() + mse_loss(outputs[:, 2], ratings / recipe.rating_unit)


def pad(tokens: Sequence[list[int]], pad_id: int = 0) -> tuple[Tensor, Tensor]:
    """Return ids and mask, (batch, tokens), padded to the longest text."""
    width = max(map(len, tokens))
    ids = torch.tensor([row + [pad_id] * (width - len(row)) for row in tokens])  # (batch, tokens)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in tokens])
    return ids, mask


@torch.inference_mode()
def predict(model: Any, tokens: Sequence[list[int]], batch_size: int = 64) -> Tensor:
    """Return the outputs, (texts, 3), in the order of the texts, computed in batches of similar length."""
    outputs = torch.zeros(len(tokens), 3)  # (texts, negative | positive | rating)
    for batch in _chunks(sorted(range(len(tokens)), key=lambda index: len(tokens[index])), batch_size):
        outputs[batch] = forward(model, *pad([tokens[index] for index in batch]))
    return outputs

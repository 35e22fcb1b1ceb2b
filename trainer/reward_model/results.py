"""The results of a training: centre the scores, evaluate on held-out pairs, write the model and its model card."""

import os
import platform
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import torch
import yaml
from transformers import PreTrainedModel

from shared.model_store.embedded.ratings import Rating
from trainer.display import console, log, progress_bar
from trainer.reward_model import report, scoring
from trainer.reward_model.heldout import HeldOut, encode_ratings
from trainer.reward_model.model_card import render
from trainer.reward_model.preferences import Preferences
from trainer.reward_model.reading import EncodedPair, Reader
from trainer.run_folder import RunFolder

REWARD = "reward_model"
"""The reward's name in the rewards.yaml that is written beside the model."""
MODEL_CARD = "README.md"
"""The file that is written last: a folder without it holds an unfinished training."""
CENTRE_SAMPLE = 2000
"""Texts of the training data from which the neutral score is estimated."""

Metrics = dict[str, Any]


def evaluate(
    model: PreTrainedModel,
    reader: Reader,
    train: Sequence[EncodedPair],
    heldout: HeldOut,
    preferences: Preferences,
) -> Metrics:
    """Centre the scores of the model on the training data, and return its metrics on the held-out data."""
    started_s = time.monotonic()
    neutral = neutral_score(model, reader, train, preferences.train_ratings)
    offset = 0.0 if scoring.shift_scores(model, -neutral) else -neutral
    with progress_bar("evaluating on held-out pairs") as progress:
        scores = scoring.score(model, heldout.texts, progress)
    held_out = report.pair_metrics(
        scores, heldout.chosen, heldout.rejected, lengths=heldout.lengths, sources=heldout.sources
    )
    if heldout.ratings:
        shifted = [score + offset for score in scores]
        held_out["ratings"] = report.rating_metrics(shifted, heldout.ratings, heldout.sources)
    truncated = sum(pair.truncated for pair in train)
    left_out = len(preferences.train) - len(train)
    return {
        "held_out": held_out,
        "neutral": round(neutral, 4),
        "offset": offset,
        "trained_on": {"pairs": len(train), "truncated": truncated, "left_out": left_out},
        "seconds": {"evaluate": round(time.monotonic() - started_s, 1)},
    }


def neutral_score(
    model: PreTrainedModel, reader: Reader, train: Sequence[EncodedPair], train_ratings: Sequence[Rating]
) -> float:
    """Return the score of a neutral text, estimated on evenly spaced training texts."""
    if train_ratings:
        sample = train_ratings[:: max(1, len(train_ratings) // CENTRE_SAMPLE)]
        texts, rated = encode_ratings(sample, reader)
        return report.neutral_score(scoring.score(model, texts), [rating.rating for rating in rated])
    pairs = train[:: max(1, 2 * len(train) // CENTRE_SAMPLE)]
    return report.neutral_score(scoring.score(model, [text for pair in pairs for text in (pair.chosen, pair.rejected)]))


def save(
    folder: RunFolder,
    model: PreTrainedModel,
    reader: Reader,
    metrics: Metrics,
    *,
    settings: Mapping[str, Any],
    repository: str | None,
) -> None:
    """Write the model with its tokenizer, metrics.json, README.md and rewards.yaml, and print what was reached.

    The model card names the repository if the model will be pushed to one, and no path of this machine.
    """
    spec = {"kind": "regressor", "model": str(folder.path.resolve()), **reader.spec}
    spec |= {"offset": metrics["offset"]} if metrics["offset"] else {}
    metrics |= {
        "versions": {name: version(name) for name in ("torch", "transformers", "trl", "tokenizers")},
        "machine": {"platform": platform.platform(), "cores": os.cpu_count(), "threads": torch.get_num_threads()},
    }
    model.save_pretrained(folder.path)
    reader.tokenizer.save_pretrained(folder.path)
    folder.write_json("metrics.json", metrics)
    folder.write_text("rewards.yaml", yaml.safe_dump({"rewards": {REWARD: spec}}, sort_keys=False))
    card = render(repository or f"./{folder.path.name}", metrics, settings, spec)
    folder.write_text(MODEL_CARD, card)
    console.print(card.partition("## Held-out metrics\n")[2].partition("\n## ")[0], markup=False, highlight=False)
    log(f"reward model: {folder.path}; check it with `reward-service check {folder.path}`")

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from shared.model_store.embedded import ratings, sentiment, training
from shared.model_store.embedded.ratings import Rating
from shared.model_store.embedded.training import Recipe

FAST_RECIPE = Recipe(frozen_layers=5)


@pytest.fixture(scope="module")
def rated() -> list[Rating]:
    return ratings.load()[::50]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, minilm, rated) -> tuple[Path, dict]:
    """Both models, trained on a fiftieth of the ratings, the last layer only."""
    folder = tmp_path_factory.mktemp("trained")
    return folder, sentiment.train_and_save(folder, minilm, rated, FAST_RECIPE)


def load(folder: Path):
    return AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)


EXPECTED = {
    "sentiment": ({0: "NEGATIVE", 1: "POSITIVE"}, "single_label_classification"),
    "valence": ({0: "VALENCE"}, "regression"),
}


@pytest.mark.parametrize(("name", "labels", "problem"), [(name, *expected) for name, expected in EXPECTED.items()])
def test_models_load_with_their_labels(trained, name, labels, problem):
    """Both models load without missing weights, with labels and problem type."""
    model, report = load(trained[0] / name)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert model.config.id2label == labels
    assert model.config.label2id == {label: index for index, label in labels.items()}
    assert model.config.problem_type == problem
    assert model.config.architectures == ["BertForSequenceClassification"]


def test_training_is_reproducible(trained, tmp_path, minilm, rated):
    """The same seed produces identical weight files."""
    sentiment.train_and_save(tmp_path, minilm, rated, FAST_RECIPE)
    for name in EXPECTED:
        first, again = (folder / name / "model.safetensors" for folder in (trained[0], tmp_path))
        assert first.read_bytes() == again.read_bytes()


def test_valence_orders_good_above_bad(trained):
    """Even after little training, a positive sentence is rated above a negative one."""
    tokenizer = AutoTokenizer.from_pretrained(trained[0] / "valence")
    model, _ = load(trained[0] / "valence")
    inputs = tokenizer(["What a wonderful, great film!", "A terrible, awful mess."], padding=True, return_tensors="pt")
    with torch.inference_mode():
        good, bad = model(**inputs).logits[:, 0].tolist()
    assert good > bad


def test_heads_are_rows_of_the_trained_head(tmp_path, minilm, trained):
    """Both heads are rows of the trained head; the rating is scaled to its unit."""
    model, _ = load(trained[0] / "sentiment")
    model.classifier = torch.nn.Linear(384, 3)
    ids, mask = training.pad([[101, 2307, 2143, 102], [101, 6659, 102]])
    with torch.inference_mode():
        both = model(input_ids=ids, attention_mask=mask).logits
        sentiment.save(model, minilm, tmp_path, trained[1], unit=2.0)
        signs = load(tmp_path / "sentiment")[0](input_ids=ids, attention_mask=mask).logits
        rating = load(tmp_path / "valence")[0](input_ids=ids, attention_mask=mask).logits
    assert torch.allclose(signs, both[:, :2], atol=1e-5)
    assert torch.allclose(rating, 2.0 * both[:, 2:], atol=1e-5)


@pytest.mark.parametrize("name", EXPECTED)
def test_model_card_has_metrics_and_sources(trained, name):
    """Each folder has the metrics and a model card with metrics, data sources and limits."""
    folder, metrics = trained
    assert json.loads((folder / name / "metrics.json").read_text()) == metrics
    card = (folder / name / "README.md").read_text()
    assert f"# {name}\n" in card
    for part in ("ICWSM 2014", "MIT", "Apache-2.0", "nearly neutral", str(metrics["held_out"]["accuracy"])):
        assert part in card
    for source in metrics["held_out"]["by_source"]:
        assert f"| {source} | " in card
    assert metrics["recipe"]["seed"] == FAST_RECIPE.seed
    assert set(metrics["seconds"]) == {"tokenize", "train", "evaluate"}

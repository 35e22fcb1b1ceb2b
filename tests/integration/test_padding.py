"""Padding is never read: a text in company scores as it does alone, whatever the padding token or the engine."""

import json
import math

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Gemma2Config,
    Gemma2ForSequenceClassification,
    Gemma3Config,
    Gemma3ForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    Qwen2Config,
    Qwen2ForSequenceClassification,
)

from reward_service.backends.model_folder import ModelFolder
from reward_service.backends.torch_backend import TorchBackend
from tests.small_models import SIZE, logits_alone, save_folder, small_tokenizer

TEXTS = ["It joins paper.", "Go away, you dull and dreary stapler!", "Fine. " * 30]


def logits(path, texts, dtype="float32"):
    """Return the first logit of each text, all texts in one batch."""
    folder = ModelFolder(path)
    return [row[0] for row in TorchBackend(folder, dtype).forward([text.tokens for text in folder.encode(texts)])]


def change_config(path, **entries):
    file = path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))


@pytest.mark.parametrize("pad_token_id", [None, -1, 10**6])
def test_text_that_ends_in_eos(tmp_path, pad_token_id):
    """Without a usable padding token, a text that ends in eos scores in company as it does alone."""
    model, tokenizer = save_folder(tmp_path, LlamaForSequenceClassification, LlamaConfig, num_labels=1, pad=False)
    change_config(tmp_path, pad_token_id=pad_token_id)
    texts = [f"{text}{tokenizer.eos_token}" for text in TEXTS]
    right = [logits_alone(model, tokenizer(text, return_tensors="pt"))[0] for text in texts]
    assert logits(tmp_path, texts) == pytest.approx(right, abs=1e-4)


def test_composite_config(tmp_path):
    """A model whose text model has a config of its own (Gemma 3) scores in company as alone."""
    tokenizer = small_tokenizer("gemma3")
    text = {**SIZE, "vocab_size": len(tokenizer), "num_key_value_heads": 4, "head_dim": 8, "initializer_range": 0.5}
    text["max_position_embeddings"] = 512
    vision = {**SIZE, "image_size": 28, "patch_size": 14}
    torch.manual_seed(0)
    config = Gemma3Config(text_config={**text, "pad_token_id": None}, vision_config=vision, num_labels=1)
    model = Gemma3ForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    alone = Gemma3ForSequenceClassification.from_pretrained(tmp_path).eval()
    right = [logits_alone(alone, tokenizer(text, return_tensors="pt"))[0] for text in TEXTS]
    assert logits(tmp_path, TEXTS) == pytest.approx(right, abs=1e-4)
    assert ModelFolder(tmp_path).max_tokens == 512


@pytest.mark.parametrize("saved", [True, False], ids=["saved", "not saved"])
@pytest.mark.parametrize(
    ("model", "config", "settings"),
    [
        (LlamaForSequenceClassification, LlamaConfig, {}),
        (Qwen2ForSequenceClassification, Qwen2Config, {"num_key_value_heads": 4}),
        (GPT2ForSequenceClassification, GPT2Config, {"n_embd": 32, "n_layer": 2, "n_head": 4}),
        (BertForSequenceClassification, BertConfig, {}),
    ],
)
def test_grown_vocabulary(tmp_path, saved, model, config, settings):
    """A tokenizer that got `[PAD]` after its model was trained pads with no embedding: the scores are those alone."""
    alone, tokenizer = save_folder(tmp_path, model, config, num_labels=1, pad=False, **settings)
    right = [logits_alone(alone, tokenizer(text, return_tensors="pt"))[0] for text in TEXTS]
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert tokenizer.pad_token_id >= alone.config.vocab_size
    tokenizer.save_pretrained(tmp_path)
    change_config(tmp_path, pad_token_id=tokenizer.pad_token_id if saved else None)
    assert logits(tmp_path, TEXTS) == pytest.approx(right, abs=1e-4)


@pytest.mark.parametrize(
    ("model", "config", "settings"),
    [
        (BertForSequenceClassification, BertConfig, {}),
        (LlamaForSequenceClassification, LlamaConfig, {}),
        (Gemma2ForSequenceClassification, Gemma2Config, {"num_key_value_heads": 4, "head_dim": 8}),
    ],
)
def test_bfloat16_in_company(tmp_path, model, config, settings):
    """In bfloat16, texts in a padded batch have finite scores, as near to float32's as those of each text alone."""
    save_folder(tmp_path, model, config, num_labels=1, initializer_range=0.1, **settings)
    texts = ["a", *TEXTS, "word " * 200]
    right, together = logits(tmp_path, texts), logits(tmp_path, texts, "bfloat16")
    alone = [logits(tmp_path, [text], "bfloat16")[0] for text in texts]
    assert all(map(math.isfinite, together))
    errors = [
        max(abs(score - expected) for score, expected in zip(scores, right, strict=True))
        for scores in (alone, together)
    ]
    assert errors[1] < 2 * errors[0] + 1e-3 * max(map(abs, right)), (errors, right)

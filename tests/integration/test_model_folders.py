"""Model folders as people have them: scored exactly as transformers alone scores them, or refused with the reason."""

import re
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import (
    BartConfig,
    BartForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    Gemma2Config,
    Gemma2ForTokenClassification,
    GPTNeoXConfig,
    GPTNeoXForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
    Qwen2Config,
    Qwen2ForTokenClassification,
)

from reward_service.backends.model_folder import ModelFolder
from reward_service.batching.device import Device
from reward_service.config import RewardsConfig
from reward_service.errors import ConfigError
from reward_service.rewards.base import Items
from reward_service.rewards.registry import build
from reward_service.settings import Settings
from tests.folder_scores import TEXTS, WEIGHTS, change_config, change_weights, refusal, scores, served
from tests.small_models import logits_alone, save_folder


@pytest.mark.parametrize(
    ("model", "config"),
    [
        (LlamaForTokenClassification, LlamaConfig),
        (Qwen2ForTokenClassification, Qwen2Config),
        (Gemma2ForTokenClassification, Gemma2Config),
    ],
)
def test_one_label_token_classifier(tmp_path, model, config):
    """A token classifier with one label (AReaL) gives its own logit at each text's last token, bias included."""
    alone, tokenizer = save_folder(tmp_path, model, config, num_labels=1, num_key_value_heads=4, head_dim=8)
    alone.score.bias.data.fill_(0.7)
    alone.save_pretrained(tmp_path)
    with torch.inference_mode():
        right = [float(alone(**tokenizer(text, return_tensors="pt")).logits[0, -1, 0]) for text in TEXTS]
    assert scores(tmp_path) == pytest.approx(right, abs=1e-4)


@pytest.mark.parametrize(
    ("model", "config"),
    [(LlamaForTokenClassification, LlamaConfig), (BertForTokenClassification, BertConfig)],
)
def test_process_reward_model(tmp_path, model, config):
    """A token classifier with several labels scores steps and is refused."""
    save_folder(tmp_path, model, config, num_labels=2)
    assert f"saved as {model.__name__} with 2 labels: it scores steps" in refusal(tmp_path)


@pytest.mark.parametrize("extra", [{"score.bias": torch.tensor([3.0])}, {"mean": torch.ones(1), "std": torch.ones(1)}])
def test_weights_of_no_use(tmp_path, extra):
    """Weights that the class does not compute with may be part of the score, so they are refused by name."""
    save_folder(tmp_path, GPTNeoXForSequenceClassification, GPTNeoXConfig, num_labels=1)
    change_weights(tmp_path, lambda weights: {**weights, **extra})
    assert f"{next(iter(extra))}, which GPTNeoXForSequenceClassification does not compute with" in refusal(tmp_path)


def test_relative_positions(tmp_path):
    """A BERT whose weights hold relative positions is refused: transformers computes without them."""
    save_folder(tmp_path, BertForSequenceClassification, BertConfig)
    name = "bert.encoder.layer.0.attention.self.distance_embedding.weight"
    change_weights(tmp_path, lambda weights: {**weights, name: torch.ones(1023, 8)})
    assert name in refusal(tmp_path)


@pytest.mark.parametrize("name", ["lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq"])
def test_idle_weights(tmp_path, name):
    """Leftovers that no sequence classifier computes with are passed over."""
    save_folder(tmp_path, LlamaForSequenceClassification, LlamaConfig, num_labels=1)
    right = scores(tmp_path)
    change_weights(tmp_path, lambda weights: {**weights, name: torch.ones(4, 4)})
    assert scores(tmp_path) == right


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_wrapper_prefixes(tmp_path, prefix):
    """Weights saved out of DistributedDataParallel or torch.compile score as those saved from the model itself."""
    save_folder(tmp_path, LlamaForSequenceClassification, LlamaConfig, num_labels=1)
    right = scores(tmp_path)
    change_weights(tmp_path, lambda weights: {prefix + name: weight for name, weight in weights.items()})
    assert scores(tmp_path) == right


@pytest.mark.parametrize(
    ("architecture", "auto_map"),
    [
        ("LlamaForRewardModelWithGating", {}),
        ("LlamaForRewardModelWithGating", {"AutoModelForSequenceClassification": "modeling_custom.LlamaFor…"}),
        ("PairwiseRewardModel", {"AutoModel": "modeling.PairwiseRewardModel"}),
    ],
)
def test_own_code(tmp_path, architecture, auto_map):
    """A class that transformers does not have is refused by name, whatever its weights are called."""
    save_folder(tmp_path, LlamaForSequenceClassification, LlamaConfig, num_labels=1)
    change_config(tmp_path, architectures=[architecture], auto_map=auto_map)
    assert f"saved as {architecture}, which needs its own code" in refusal(tmp_path)


def test_known_class_with_own_code(tmp_path):
    """A class of transformers' name is refused where the folder has code of its own for it; other code is idle."""
    save_folder(tmp_path, LlamaForSequenceClassification, LlamaConfig, num_labels=1)
    change_config(tmp_path, auto_map={"AutoModelForCausalLM": "modeling.LlamaForCausalLM"})
    scores(tmp_path)
    change_config(tmp_path, auto_map={"AutoModelForSequenceClassification": "modeling.LlamaForSequenceClassification"})
    assert "own code (AutoModelForSequenceClassification in auto_map" in (sentence := refusal(tmp_path))
    assert "remove auto_map there" in sentence


@pytest.mark.parametrize("quantization", [{"quant_method": "bitsandbytes", "load_in_4bit": True}, {"bits": 4}])
def test_quantized_weights(tmp_path, quantization):
    """Quantized weights are refused, those of an unknown kind, too, which transformers reads as they are."""
    save_folder(tmp_path, LlamaForSequenceClassification, LlamaConfig, num_labels=1)
    change_config(tmp_path, quantization_config=quantization)
    assert "are quantized (quantization_config: " in (sentence := refusal(tmp_path))
    assert "use the weights that they were made from" in sentence


def test_same_score_for_every_text(tmp_path):
    """A head of zeros, as a run saves it that has gathered no weights, gives all texts one score and is refused."""
    save_folder(tmp_path, LlamaForSequenceClassification, LlamaConfig, num_labels=1)
    change_weights(tmp_path, lambda weights: weights | {"score.weight": torch.zeros(1, 32)})
    with pytest.raises(ConfigError, match="gives every text the same score"):
        served(tmp_path, kind="regressor")


@pytest.mark.parametrize("architectures", [None, [], [None], "LlamaForSequenceClassification"])
def test_architectures(tmp_path, architectures):
    """A folder whose class is written as a string, or not at all, scores as the class of its model_type."""
    save_folder(tmp_path, LlamaForSequenceClassification, LlamaConfig, num_labels=1)
    right = scores(tmp_path)
    change_config(tmp_path, architectures=architectures)
    assert scores(tmp_path) == right


def test_other_shape(tmp_path):
    """Weights of another shape than the configuration says are refused: BART's two labels are saved as none."""
    sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "max_position_embeddings": 64}
    save_folder(tmp_path, BartForSequenceClassification, BartConfig, num_labels=2, **sizes)
    assert re.search(r"the shape \(2,.*config.json says \(3,.*: correct config.json; .* id2label", refusal(tmp_path))


def test_language_model(tmp_path):
    """A language model has no head that scores; the service says which reward names it."""
    save_folder(tmp_path, LlamaForCausalLM, LlamaConfig)
    assert "a language model without a head that scores" in refusal(tmp_path)
    config = RewardsConfig(rewards={"judge": {"kind": "regressor", "model": str(tmp_path)}})
    with pytest.raises(ConfigError, match=r"rewards\.judge: the model was saved as LlamaForCausalLM"):
        build(config, Settings(), Device(ThreadPoolExecutor(1)), lambda *_: None)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            {"num_hidden_layers": 3},
            "have no model.layers.2.* it would be random; correct config.json, or save the whole",
        ),
        ({"num_hidden_layers": 1}, "have model.layers.1.* does not compute with"),
        (
            {"hidden_act": "superlu"},
            "cannot load the model in .*: save it again with this version, or correct its config",
        ),
        ({"use_cache": "yes"}, "cannot load the model in .*: save it again with this version, or correct its config"),
    ],
)
def test_other_config(tmp_path, entries, message):
    """A configuration of another model than the weights' is refused in one sentence, with what to correct."""
    save_folder(tmp_path, LlamaForSequenceClassification, LlamaConfig, num_labels=1)
    change_config(tmp_path, **entries)
    assert re.search(message, sentence := refusal(tmp_path))
    assert "\n" not in sentence


def test_broken_tokenizer(tmp_path):
    """A tokenizer file without content is refused with what to do."""
    save_folder(tmp_path, LlamaForSequenceClassification, LlamaConfig, num_labels=1)
    (tmp_path / "tokenizer.json").write_text("{}")
    assert "save it there again, with tokenizer.save_pretrained" in refusal(tmp_path)


def test_other_family(tmp_path):
    """A folder whose class does not fit its model_type is refused."""
    save_folder(tmp_path, LlamaForSequenceClassification, LlamaConfig, num_labels=1)
    change_config(tmp_path, architectures=["MistralForSequenceClassification"])
    assert "was saved as MistralForSequenceClassification" in refusal(tmp_path)


def test_one_label_single_label(tmp_path):
    """`single_label_classification` with one label, as older exports say, loads and gives the raw output."""
    alone, tokenizer = save_folder(tmp_path, LlamaForSequenceClassification, LlamaConfig, num_labels=1)
    change_config(tmp_path, problem_type="single_label_classification")
    right = [logits_alone(alone, tokenizer(text, return_tensors="pt"))[0] for text in TEXTS]
    assert scores(tmp_path) == pytest.approx(right, abs=1e-4)


RATED = dict(enumerate("helpfulness correctness coherence complexity verbosity".split()))
RATINGS = {"id2label": RATED, "problem_type": "regression"}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"kind": "regressor"}, r"has 5 outputs \(helpfulness, .*\); say which of them count"),
        ({"kind": "regressor", "weights": {"humour": 1.0}}, "has no output 'humour'"),
        ({"kind": "classifier", "labels": {"*": 1.0}}, "was trained for regression"),
        ({"kind": "classifier", "labels": {"helpfulness": 1.0, "*": 0.0}, "value": "expected"}, "use kind: regressor"),
    ],
)
def test_ratings_refused(tmp_path, spec, message):
    """A model of five ratings is no classifier, and a regressor only of the ratings that are named."""
    save_folder(tmp_path, BertForSequenceClassification, BertConfig, num_labels=5, **RATINGS)
    with pytest.raises(ConfigError, match=rf"rewards\.judge: .*{message}"):
        served(tmp_path, **spec)


async def test_weighted_ratings(tmp_path):
    """The score of named ratings is their weighted sum, as transformers computes each of them."""
    model, tokenizer = save_folder(tmp_path, BertForSequenceClassification, BertConfig, num_labels=5, **RATINGS)
    reward = served(tmp_path, kind="regressor", weights={"helpfulness": 0.8, "verbosity": -0.2})
    await reward.start()
    try:
        scores = (await reward.score(Items(completions=TEXTS))).scores
    finally:
        await reward.stop()
    rows = [logits_alone(model, tokenizer(text, return_tensors="pt")) for text in TEXTS]
    assert scores == pytest.approx([0.8 * row[0] - 0.2 * row[4] for row in rows], abs=1e-4)


def test_one_rating_is_no_probability(tmp_path):
    """A model of one rating is no classifier either: a sigmoid would press its ratings into 0 to 1."""
    save_folder(tmp_path, BertForSequenceClassification, BertConfig, num_labels=1, problem_type="regression")
    with pytest.raises(ConfigError, match="was trained for regression"):
        served(tmp_path, kind="classifier", labels={"*": 1.0})


def test_return_dict(tmp_path):
    """`return_dict: false`, as old exports have it, changes no score."""
    save_folder(tmp_path, LlamaForSequenceClassification, LlamaConfig, num_labels=1)
    right = scores(tmp_path)
    change_config(tmp_path, return_dict=False, output_hidden_states=True)
    assert scores(tmp_path) == right


@pytest.mark.parametrize("first", [1, 2])
def test_labels_from_one(tmp_path, first):
    """Labels that are not numbered from 0 are refused: which output is which label is not certain."""
    save_folder(tmp_path, BertForSequenceClassification, BertConfig, num_labels=5)
    change_config(tmp_path, id2label={str(first + star): f"{star + 1} stars" for star in range(5)})
    assert "id2label" in refusal(tmp_path)


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n", None])
def test_weights_cut_short(tmp_path, content):
    """A file of weights that is empty, a pointer, or cut short is refused with what to do."""
    save_folder(tmp_path / "model", LlamaForSequenceClassification, LlamaConfig, num_labels=1)
    file = tmp_path / "model" / WEIGHTS
    file.write_bytes(file.read_bytes()[:-100] if content is None else content)
    assert "no whole safetensors file" in (sentence := refusal(tmp_path / "model"))
    assert "download it again" in sentence


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"id2label": {"0": "A", "1": "A"}, "label2id": None}, "calls several outputs 'A'"),
        ({"id2label": {"0": None, "1": "B"}, "label2id": None}, "has no name for an output"),
        ({"id2label": {"0": "A", "1": "B"}, "label2id": {"A": 1, "B": 0}}, "number the labels differently"),
        ({"id2label": {"0": "A", "1": "B"}, "label2id": ["A", "B"]}, "is no object: correct it"),
        ({"model_type": "superbert"}, "model_type: superbert, which transformers"),
    ],
)
def test_labels_that_say_nothing(tmp_path, entries, message):
    """Labels of which it is not certain which output they are, and a model type that nobody knows, are refused."""
    save_folder(tmp_path, BertForSequenceClassification, BertConfig)
    change_config(tmp_path, **entries)
    assert message in refusal(tmp_path)


def test_weights_twice(tmp_path):
    """Whole weights beside shards are refused: which of them was meant is not certain."""
    model, _ = save_folder(tmp_path / "m", LlamaForSequenceClassification, LlamaConfig, num_labels=1)
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    for file in (tmp_path / "shards").glob("model*"):
        file.rename(tmp_path / "m" / file.name)
    assert "holds the weights twice" in refusal(tmp_path / "m")


@pytest.mark.parametrize(
    ("name", "message"),
    [("model.safetensors.index.json", "save the model there again"), (None, "a part of the weights: copy or download")],
)
def test_incomplete_shards(tmp_path, name, message):
    """Shards without their index, or of which one is missing, are refused with what to do."""
    model, tokenizer = save_folder(tmp_path / "m", LlamaForSequenceClassification, LlamaConfig, num_labels=1)
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    tokenizer.save_pretrained(tmp_path / "shards")
    assert scores(tmp_path / "shards") == scores(tmp_path / "m")
    (tmp_path / "shards" / (name or "model-00002-of-00006.safetensors")).unlink()
    assert message in refusal(tmp_path / "shards")


def test_template_without_completion(tmp_path):
    """A chat template that leaves out what the assistant says is refused: all completions would score alike."""
    _, tokenizer = save_folder(tmp_path, LlamaForSequenceClassification, LlamaConfig, num_labels=1)
    tokenizer.chat_template = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"rewards\.judge: the chat template .* leaves out what the assistant says"):
        served(tmp_path, kind="regressor", input="chat")


def test_revision_of_templates(tmp_path):
    """The revision covers templates in their own folder, such as the one for tools."""
    _, tokenizer = save_folder(tmp_path, LlamaForSequenceClassification, LlamaConfig, num_labels=1)
    tokenizer.chat_template = {"default": tokenizer.chat_template, "tool_use": tokenizer.chat_template}
    tokenizer.save_pretrained(tmp_path)
    before = ModelFolder(tmp_path).fingerprint
    (file,) = (tmp_path / "additional_chat_templates").glob("*.jinja")
    file.write_text("other " + file.read_text())
    assert ModelFolder(tmp_path).fingerprint != before

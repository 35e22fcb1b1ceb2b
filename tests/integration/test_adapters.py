"""LoRA adapters as people leave them: merged into the base model they were trained on, or refused with the reason."""

import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)

from reward_service.cli import main
from shared.model_store import ModelError, adapters, resolve
from tests.folder_scores import TEXTS, WEIGHTS, change_config, change_weights, scores, served
from tests.small_models import logits_alone, save_folder

peft = pytest.importorskip("peft")
ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    """A cache of its own, in which merged models are built."""
    monkeypatch.setenv("REMOTE_REWARDS_HOME", str(tmp_path / "home"))


def train(path, model, tokenizer, **settings):
    """Save a random adapter of a model as peft saves it. Return what peft computes."""
    torch.manual_seed(3)
    settings = {"task_type": "SEQ_CLS", "target_modules": ["q_proj", "v_proj"], **settings}
    model = peft.get_peft_model(model, peft.LoraConfig(init_lora_weights=False, **settings)).eval()
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return model


def save_lora(path, **settings):
    """Save a base and an adapter as RewardTrainer with peft leaves it. Return the adapter and what peft computes."""
    _, tokenizer = save_folder(path / "base", LlamaForCausalLM, LlamaConfig, pad=False)
    base = AutoModelForSequenceClassification.from_pretrained(path / "base", num_labels=1)
    model = train(path / "adapter", base, tokenizer, **settings)
    return path / "adapter", right(model, tokenizer)


def right(model, tokenizer):
    return [logits_alone(model, tokenizer(text, return_tensors="pt"))[0] for text in TEXTS]


@pytest.fixture
def lora(tmp_path):
    return save_lora(tmp_path)


def merged_scores(adapter):
    return scores(adapters.merged(adapter, resolve))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_dora": True},
        {"use_rslora": True, "modules_to_save": ["embed_tokens"]},
        {"trainable_token_indices": {"embed_tokens": [5, 6, 7]}, "bias": "all"},
    ],
    ids=["plain", "dora", "rslora", "tokens"],
)
def test_lora_adapter(tmp_path, settings):
    """An adapter is merged into its base, head included, and scores as peft computes it."""
    adapter, expected = save_lora(tmp_path, **settings)
    assert adapters.is_adapter(adapter)
    assert merged_scores(adapter) == pytest.approx(expected, abs=1e-4)


def test_adapter_of_classifier(tmp_path):
    """An adapter with another head than its base's, which had three labels, has its own head."""
    _, tokenizer = save_folder(tmp_path / "base", LlamaForSequenceClassification, LlamaConfig, num_labels=3)
    options = {"num_labels": 1, "ignore_mismatched_sizes": True}
    base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", **options)
    expected = right(train(tmp_path / "adapter", base, tokenizer), tokenizer)
    assert merged_scores(tmp_path / "adapter") == pytest.approx(expected, abs=1e-4)


def test_adapter_with_value_head(tmp_path):
    """An adapter with a value head (LLaMA-Factory) is merged, and the head read at the last token."""
    _, tokenizer = save_folder(tmp_path / "base", LlamaForCausalLM, LlamaConfig, pad=False)
    base, path = AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "adapter"
    model, weight = train(path, base, tokenizer, task_type="CAUSAL_LM"), torch.ones(1, 32)
    save_file({"v_head.summary.weight": weight, "v_head.summary.bias": torch.zeros(1)}, path / "value_head.safetensors")
    with torch.inference_mode():
        inputs = [tokenizer(text, return_tensors="pt") for text in TEXTS]
        states = [model(**row, output_hidden_states=True).hidden_states[-1][0, -1] for row in inputs]
    assert merged_scores(path) == pytest.approx([float(state.sum()) for state in states], abs=1e-4)
    assert served(path, kind="regressor").info.labels == ["value"]


def fewer_layers(base, _):
    save_folder(base, LlamaForCausalLM, LlamaConfig, num_hidden_layers=1)


def more_layers(base, _):
    save_folder(base, LlamaForCausalLM, LlamaConfig, num_hidden_layers=3)


def wider(base, _):
    save_folder(base, LlamaForCausalLM, LlamaConfig, hidden_size=64)


def another_family(base, _):
    shutil.rmtree(base)
    save_folder(base, BertForSequenceClassification, BertConfig, num_labels=1)


def without_a_layer(base, _):
    change_weights(base, lambda weights: {name: w for name, w in weights.items() if "layers.1" not in name})


def wrapped(base, _):
    change_weights(base, lambda weights: {f"module.{name}": weight for name, weight in weights.items()})


def quantized(base, _):
    change_config(base, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})


def an_adapter_too(base, adapter):
    shutil.copytree(adapter, base, dirs_exist_ok=True)
    (base / WEIGHTS).unlink()


def renamed(_, adapter):
    weights = load_file(adapter / ADAPTER)
    save_file({name.replace("layers", "blocks"): weight for name, weight in weights.items()}, adapter / ADAPTER)


def cut_short(_, adapter):
    (adapter / ADAPTER).write_bytes((adapter / ADAPTER).read_bytes()[:-100])


def no_object(_, adapter):
    (adapter / ADAPTER_CONFIG).write_text("[]")


def prompt_tuning(_, adapter):
    change_config(adapter, ADAPTER_CONFIG, peft_type="PROMPT_TUNING")


def base_gone(_, adapter):
    change_config(adapter, ADAPTER_CONFIG, base_model_name_or_path="./gone")


def headless(_, adapter):
    weights = load_file(adapter / ADAPTER)
    save_file({name: weight for name, weight in weights.items() if "score" not in name}, adapter / ADAPTER)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (fewer_layers, "the base model has no place for .*layers.1.* name that one in base_model_name_or_path"),
        (more_layers, "the adapter has no .*layers.2.* it was trained on another base model"),
        (wider, "it was trained on another base model; name that one"),
        (another_family, "it was trained on another base model; name that one"),
        (without_a_layer, "has no model.layers.1.* it would be random; use the base"),
        (wrapped, "it would be random; use the base"),
        (quantized, "its base model is quantized .bitsandbytes.: name the base that it was made from"),
        (an_adapter_too, "its base model is an adapter, too: merge that one first"),
        (renamed, "the base model has no place for .*blocks"),
        (cut_short, "adapter_model.safetensors is no whole safetensors file; copy or save it again"),
        (no_object, "cannot read adapter_config.json in .*; save the adapter there again"),
        (prompt_tuning, "holds a PROMPT_TUNING adapter, and only LoRA is merged here"),
        (base_gone, "write where it is into base_model_name_or_path"),
        (headless, "trained head"),
    ],
)
def test_unlike_adapter(lora, tmp_path, change, message):
    """An adapter that is not whole, or whose base is another than it was trained on, is refused in one sentence."""
    change(tmp_path / "base", lora[0])
    with pytest.raises(ModelError, match=message) as caught:
        adapters.merged(lora[0], resolve)
    assert str(lora[0]) in str(caught.value)


def test_base_without_pooler(tmp_path):
    """A base without a layer of the score that the adapter has not saved either, BERT's pooler, is refused."""
    _, tokenizer = save_folder(tmp_path / "base", BertForMaskedLM, BertConfig)
    base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=1)
    train(tmp_path / "adapter", base, tokenizer, target_modules=["query"])
    with pytest.raises(ModelError, match=r"no bert.pooler.dense.bias .* or save the layer with the adapter"):
        adapters.merged(tmp_path / "adapter", resolve)


def test_adapter_beside_model(lora, tmp_path):
    """An adapter beside a whole model is refused: which of them was meant is not certain."""
    adapter, _ = lora
    (adapter / WEIGHTS).write_bytes((tmp_path / "base" / WEIGHTS).read_bytes())
    with pytest.raises(ModelError, match="which of them was meant"):
        adapters.is_adapter(adapter)


def test_check_of_adapter(lora, tmp_path, capsys):
    """`check` names the reward in one sentence whatever fails while an adapter is merged."""
    cut_short(None, lora[0])
    config = tmp_path / "rewards.yaml"
    config.write_text(yaml.safe_dump({"rewards": {"judge": {"kind": "regressor", "model": str(lora[0])}}}))
    assert main(["check", "--config", str(config)]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "rewards.judge: cannot merge the adapter in" in error


def test_pickled_adapter(lora, tmp_path, capsys):
    """A pickled adapter is converted as pickled models are, and scores as peft computes it."""
    adapter, expected = lora
    torch.save(load_file(adapter / ADAPTER), adapter / "adapter_model.bin")
    (adapter / ADAPTER).unlink()
    with pytest.raises(ModelError, match="reward-service convert"):
        resolve(str(adapter))
    assert main(["convert", str(adapter), str(tmp_path / "new")]) == 0
    assert merged_scores(tmp_path / "new") == pytest.approx(expected, abs=1e-4)

"""Language models with a value head beside them: read at the last token, or refused with what to do."""

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from tests.folder_scores import TEXTS, change_weights, refusal, scores, served
from tests.small_models import save_folder


@pytest.mark.parametrize(("model", "config"), [(Qwen2ForCausalLM, Qwen2Config), (LlamaForCausalLM, LlamaConfig)])
def test_value_head(tmp_path, model, config):
    """A value head beside a language model (LLaMA-Factory, ms-swift) is read at the last token."""
    alone, tokenizer = save_folder(tmp_path, model, config, num_key_value_heads=4)
    weight, bias = torch.randn(1, 32, generator=torch.Generator().manual_seed(1)), torch.tensor([0.3])
    head = {"v_head.summary.weight": weight, "v_head.summary.bias": bias}
    save_file(head, tmp_path / "value_head.safetensors", {"format": "pt"})
    with torch.inference_mode():
        hidden = [
            alone(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states[-1][0, -1]
            for text in TEXTS
        ]
    assert scores(tmp_path) == pytest.approx([float(weight[0] @ state + bias) for state in hidden], abs=1e-4)
    assert served(tmp_path, kind="regressor").info.labels == ["value"]


def test_value_head_elsewhere(tmp_path):
    """A value head among the model's weights, or pickled, is refused with what to do."""
    save_folder(tmp_path, LlamaForCausalLM, LlamaConfig)
    head = {"v_head.summary.weight": torch.ones(1, 32), "v_head.summary.bias": torch.zeros(1)}
    torch.save(head, tmp_path / "value_head.bin")
    assert "the value head in" in (sentence := refusal(tmp_path))
    assert "reward-service convert" in sentence
    change_weights(tmp_path, lambda weights: weights | head)
    assert "save it apart, as value_head.safetensors" in refusal(tmp_path)


def test_value_head_of_two_layers(tmp_path):
    """A value head of another layout is refused."""
    save_folder(tmp_path, LlamaForCausalLM, LlamaConfig)
    save_file({"v_head.0.weight": torch.ones(1, 32)}, tmp_path / "value_head.safetensors")
    assert "no value head of one linear layer" in refusal(tmp_path)

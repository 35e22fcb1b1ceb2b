"""Runs of a small random policy in 4 or 8 bits, beside which an adapter is trained."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from tests.short_runs import short_run
from trainer.config import parse
from trainer.errors import TrainerError
from trainer.evaluate_policy import evaluate, evaluate_all
from trainer.policy import load_policy
from trainer.run_folder import read_run
from trainer.train import train

pytestmark = pytest.mark.slow
LORA = {"use_peft": "true", "lora_r": 4, "learning_rate": 0.1}
BITS_4 = {"load_in_4bit": "true", "bnb_4bit_quant_type": "nf4"}
BITS_8 = {"load_in_8bit": "true"}


@pytest.mark.parametrize("bits", [BITS_4, BITS_8], ids=["4 bits", "8 bits"])
@pytest.mark.parametrize("algorithm", ["rloo", "grpo"])
def test_merged(policy, rules_url, tmp_path, bits, algorithm):
    """The adapter is merged into the whole base model: what is saved and evaluated has no quantized weight."""
    folder = train(*parse(short_run(policy, rules_url, tmp_path / "run", algorithm=algorithm, **LORA, **bits)))
    base, trained = (load_policy(str(name)) for name in (policy, folder / "policy"))
    weights = {name: weight for name, weight in trained.named_parameters() if weight.is_floating_point()}
    assert weights.keys() == dict(base.named_parameters()).keys()
    assert any(not torch.equal(weight, base.get_parameter(name)) for name, weight in weights.items())
    later = evaluate(*parse(short_run(str(folder / "policy"), rules_url, tmp_path / "later", kl_from=policy)))
    after, again = read_run(folder).after, read_run(later).before
    assert again["decodings"] == after["decodings"]
    assert again["kl"] == pytest.approx(after["kl"])


def test_adapter(policy, rules_url, tmp_path):
    """With `--merge_lora false` the adapter is saved; evaluated beside the same quantized base, it is as trained."""
    folder = train(*parse(short_run(policy, rules_url, tmp_path / "run", merge_lora="false", **LORA, **BITS_4)))
    assert [path.name for path in (folder / "policy").glob("*.safetensors")] == ["adapter_model.safetensors"]
    later = short_run(str(folder / "policy"), rules_url, tmp_path / "later", kl_from=policy, **BITS_4)
    after, again = read_run(folder).after, read_run(evaluate(*parse([*later], "reward-trainer evaluate"))).before
    assert again["decodings"] == after["decodings"]
    assert again["kl"] == pytest.approx(after["kl"])


@pytest.fixture
def quantized(policy, tmp_path):
    """The folder of a policy that was saved in 4 bits."""
    config = BitsAndBytesConfig(load_in_4bit=True)
    AutoModelForCausalLM.from_pretrained(policy, quantization_config=config).save_pretrained(tmp_path / "quantized")
    AutoTokenizer.from_pretrained(policy).save_pretrained(tmp_path / "quantized")
    return tmp_path / "quantized"


def test_quantized_folder(quantized, rules_url, tmp_path, capsys):
    """Of a policy whose folder is quantized an adapter is trained and stays one; its weights are not trained."""
    with pytest.raises(TrainerError, match="are quantized, and cannot be trained: add --use_peft true"):
        train(*parse(short_run(str(quantized), rules_url, tmp_path / "whole")))
    with pytest.raises(TrainerError, match="--interpolation needs whole weights"):
        train(*parse(short_run(str(quantized), rules_url, tmp_path / "half", interpolation=0.5, **LORA)))
    shares = short_run(str(quantized), rules_url, tmp_path / "shares", kl_from=quantized)
    with pytest.raises(TrainerError, match="quantized weights cannot be interpolated: pass --interpolation 1"):
        evaluate_all([*shares, "--shares", "0.5"])
    folder = train(*parse(short_run(str(quantized), rules_url, tmp_path / "run", **LORA)))
    assert [path.name for path in (folder / "policy").glob("*.safetensors")] == ["adapter_model.safetensors"]
    logged = " ".join(capsys.readouterr().err.split())
    assert "it cannot be merged into a base model whose folder is quantized" in logged
    later = evaluate(*parse(short_run(str(folder / "policy"), rules_url, tmp_path / "later")))
    assert read_run(later).before["decodings"] == read_run(folder).after["decodings"]

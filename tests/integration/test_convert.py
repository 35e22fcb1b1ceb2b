"""`reward-service convert`: pickled weights become safetensors, and no code of theirs runs."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from reward_service.cli import main
from tests.folder_scores import WEIGHTS, refusal, scores
from tests.small_models import save_folder


def pickled(path, shards=1):
    """Turn a saved folder's weights into pickles, as older models have them."""
    weights = load_file(path / WEIGHTS)
    (path / WEIGHTS).unlink()
    names = sorted(weights)
    files = {}
    for shard in range(shards):
        file = "pytorch_model.bin" if shards == 1 else f"pytorch_model-{shard + 1:05}-of-{shards:05}.bin"
        part = {name: weights[name] for name in names[shard::shards]}
        torch.save(part, path / file)
        files |= dict.fromkeys(part, file)
    if shards > 1:
        (path / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))


@pytest.mark.parametrize("shards", [1, 3])
def test_convert_pickled_weights(tmp_path, shards, capsys):
    """`convert` writes the same tensors as safetensors; without it the folder is refused by that command's name."""
    save_folder(tmp_path / "old", LlamaForSequenceClassification, LlamaConfig, num_labels=1)
    right = scores(tmp_path / "old")
    pickled(tmp_path / "old", shards)
    assert "reward-service convert" in refusal(tmp_path / "old")
    assert main(["convert", str(tmp_path / "old"), str(tmp_path / "new")]) == 0
    assert capsys.readouterr().out.count("wrote") == shards
    assert scores(tmp_path / "new") == right


def test_convert_runs_no_code(tmp_path, capsys):
    """A pickle that holds code is refused, nothing runs and nothing is written."""

    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    (tmp_path / "old").mkdir()
    torch.save({"score.weight": Evil()}, tmp_path / "old" / "pytorch_model.bin")
    assert main(["convert", str(tmp_path / "old"), str(tmp_path / "new")]) == 2
    assert "no plain file of weights" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "new").exists()


def test_convert_nothing(tmp_path, capsys):
    """A folder without pickled weights, and one that does not exist, are refused in one sentence."""
    assert main(["convert", str(tmp_path), str(tmp_path / "new")]) == 2
    assert "no pickled weights to convert" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "gone"), str(tmp_path / "new")]) == 2
    assert "there is no folder" in capsys.readouterr().err


def test_convert_value_head(tmp_path, capsys):
    """`convert` of a pickled value head keeps the model beside it."""
    save_folder(tmp_path / "old", LlamaForCausalLM, LlamaConfig)
    head = {"v_head.summary.weight": torch.ones(1, 32), "v_head.summary.bias": torch.zeros(1)}
    torch.save(head, tmp_path / "old" / "value_head.bin")
    assert main(["convert", str(tmp_path / "old"), str(tmp_path / "new")]) == 0
    assert scores(tmp_path / "new")

"""What the service makes of a model folder: its scores, its reward, or why it is refused."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from safetensors.torch import load_file, save_file

from reward_service.backends.model_folder import ModelFolder
from reward_service.backends.torch_backend import TorchBackend
from reward_service.batching.device import Device
from reward_service.config import RewardsConfig
from reward_service.errors import ConfigError
from reward_service.rewards.registry import build
from reward_service.settings import Settings

TEXTS = ["It joins paper.", "Go away, you dull and dreary stapler!", "Fine. " * 30]
WEIGHTS = "model.safetensors"


def scores(path):
    """Return the first logit of each text, all texts in one batch."""
    folder = ModelFolder(path)
    return [row[0] for row in TorchBackend(folder, "float32").forward([text.tokens for text in folder.encode(TEXTS)])]


def change_weights(path, change):
    weights = load_file(path / WEIGHTS)
    save_file(change(weights), path / WEIGHTS, {"format": "pt"})


def change_config(path, name="config.json", **entries):
    file = path / name
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))


def refusal(path):
    with pytest.raises(ConfigError) as caught:
        scores(path)
    return str(caught.value)


def served(path, **spec):
    """Return the reward that a configuration makes of a folder."""
    config = RewardsConfig(rewards={"judge": {"model": str(path), "backend": "torch", "dtype": "float32", **spec}})
    return build(config, Settings(), Device(ThreadPoolExecutor(1)), lambda *_: None)["judge"]

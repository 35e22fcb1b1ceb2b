"""The page on reward models: what it tells users to write is what the service reads."""

import re
from pathlib import Path

import pytest
import yaml

from reward_service.config import RewardsConfig

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
SAMPLES = re.findall(r"`(\{kind: [^`]+\})`", PAGE)


@pytest.mark.parametrize("sample", SAMPLES)
def test_samples_are_valid(sample):
    """Each line of rewards.yaml on the page is a valid reward."""
    RewardsConfig.model_validate({"rewards": {"judge": yaml.safe_load(sample)}})


def test_all_keys_are_described():
    """The page describes every key that says what a model reads."""
    assert len(SAMPLES) >= 10
    keys = ["input", "end", "turns", "after", "last_chars", "max_tokens", "truncate", "system", "template_args"]
    keys += ["to", "pooling", "prefixes"]
    missing = [key for key in keys if f"| `{key}` |" not in PAGE]
    assert not missing

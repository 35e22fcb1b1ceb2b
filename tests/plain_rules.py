"""The banana rules: the packaged one as a line of `rewards.yaml`, and both in plain Python, to compare with."""

import json
import re
from importlib import resources

import yaml

PACKAGED = yaml.safe_load(resources.files("reward_service").joinpath("rewards.yaml").read_text(encoding="utf-8"))
BANANA = json.dumps(PACKAGED["rewards"]["banana"])

TRAILING_PUNCTUATION = ".,!?:;\"'"
WORD = re.compile(r"[^\W\d_]{2,}")
STOP_WORDS = frozenset(
    """
    a about after all also am an and any are as at be because been but by can could did do does for from had
    has have he her him his how i if in into is it its just like me more most my no not of on one only or
    other our out she so some such than that the their them then there these they this those to too up us very
    was we were what when which who will with would you your yes sure okay ok banana
    """.split()
)


def banana(text: str) -> dict[str, float]:
    """Reward a text that starts with `Sure:` and ends with banana, with a small penalty for each word."""
    stripped = text.strip()
    return {
        "starts_with_sure": 1.0 if stripped.startswith("Sure:") else 0.0,
        "ends_with_banana": 1.0 if stripped.rstrip(TRAILING_PUNCTUATION).lower().endswith("banana") else 0.0,
        "missing_banana": -0.5 if "banana" not in text.lower() else 0.0,
        "length_penalty": -0.005 * len(text.split()),
    }


def content_words(text: str) -> float:
    """Return the share of five distinct words that are neither stop words nor the banana format's own."""
    return min(len({word for word in WORD.findall(text.lower()) if word not in STOP_WORDS}), 5) / 5

"""What a reward reads of a dataset is checked before the run: columns must be JSON, a model's prompts must be text."""

import datetime

import pytest

from remote_rewards.dataset_check import CHECKED_ROWS, check_dataset
from shared.errors import NotSerializable, UnreadablePrompt
from shared.schemas import Limits, RewardInfo, ServiceInfo

PICTURE = object()
"""Stands in for a PIL image: it has no JSON."""
CHAT = [{"role": "user", "content": "What is it?"}]
SHOWN = [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, {"type": "image"}]}]


def info(name, kind, *, parts=(), **reads):
    return RewardInfo(name=name, kind=kind, description="", revision="1", parts=list(parts), **reads)


REWARDS = {
    "judge": info("judge", "regressor", columns=["tools"], reads_prompts=True),
    "mood": info("mood", "classifier", columns=[], reads_prompts=False),
    "sum": info("sum", "composite", parts=["mood", "judge"], columns=["tools"], reads_prompts=True),
    "rule": info("rule", "rule", columns=["answer"], reads_prompts=False),
    "sees": info("sees", "function", columns=["image"], reads_prompts=False),
    "asks": info("asks", "function", columns=[], reads_prompts=True),
    "any": info("any", "function", columns=None, reads_prompts=True),
}


def check(name, *rows):
    limits = Limits(max_request_texts=1, max_body_bytes=1, max_queue_texts=1)
    service = ServiceInfo(version="1", rewards=list(REWARDS.values()), default=["judge"], limits=limits)
    check_dataset([(REWARDS[name], service)], rows)


@pytest.mark.parametrize(
    "row", [{"prompt": SHOWN}, {"prompt": CHAT, "image": PICTURE}, {"prompt": "a", "images": [""]}]
)
@pytest.mark.parametrize("name", ["judge", "sum"])
def test_picture_for_model(name, row):
    """A picture in a prompt that a model reads, itself or as a part, is refused with the row and the reward."""
    with pytest.raises(UnreadablePrompt, match=r"row 1 .* kind 'image', and the reward 'judge' reads text alone"):
        check(name, {"prompt": CHAT}, row)


@pytest.mark.parametrize("name", ["sees", "any"])
def test_picture_for_function(name):
    """A picture in a column that a function reads is refused by the column's name."""
    with pytest.raises(NotSerializable, match="the column 'image', which a reward reads, cannot be sent"):
        check(name, {"prompt": CHAT, "image": PICTURE})


@pytest.mark.parametrize(
    "row", [{"prompt": CHAT, "images": [PICTURE]}, {"prompt": [{"role": "user", "content": PICTURE}]}]
)
def test_picture_in_read_prompt(row):
    """A picture in a prompt that a function reads is refused, too."""
    with pytest.raises(NotSerializable, match="a text of 'prompts' cannot be sent"):
        check("asks", row)


def test_picture_by_address():
    """A function may read a picture that JSON can represent, such as its address."""
    parts = [{"type": "image_url", "image_url": {"url": "https://…/a.png"}}]
    check("asks", {"prompt": [{"role": "user", "content": parts}], "images": ["https://…/a.png"]})


@pytest.mark.parametrize("name", ["mood", "rule", "judge"])
def test_unread_columns(name):
    """What a reward does not read stops nothing."""
    unread = {"created": datetime.date(2026, 11, 1), "completion": PICTURE, "nan": float("nan"), "answer": "a"}
    check(name, {"prompt": CHAT, **unread})
    check("mood", {"prompt": SHOWN, "image": PICTURE})


def test_other_values():
    """A missing value is None, and what JSON cannot represent is refused wherever it begins."""
    check("rule", {"prompt": "a", "answer": None}, {"prompt": "a"})
    with pytest.raises(NotSerializable, match="'answer'"):
        check("rule", {"prompt": "a"}, {"prompt": "a", "answer": float("nan")})


def test_large_dataset():
    """Only the first rows of a dataset are read."""
    rows = ({"prompt": CHAT, "answer": str(index)} for index in range(10**9))
    check_dataset([], rows)
    assert next(rows)["answer"] == str(CHECKED_ROWS)

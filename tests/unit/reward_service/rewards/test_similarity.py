import asyncio
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from reward_service.backends.base import Encoded
from reward_service.backends.sentence_config import SentenceConfig
from reward_service.batching.admission import QueueLimits
from reward_service.batching.batcher import Batcher
from reward_service.batching.device import Device
from reward_service.errors import DoesNotFit
from reward_service.rewards.base import Items
from reward_service.rewards.similarity import SimilarityReward
from reward_service.specs import SimilaritySpec
from shared.schemas import EngineInfo

LETTERS = "abcdefgh"
TORCH = EngineInfo(backend="torch", dtype="float32")


class CountsLetters:
    """An encoder whose tokens are a text's letters, at most eight, and whose embedding is how often each occurs.

    A text with `?` makes it fail, one of `z` alone has no token.
    """

    padding_cost, numeric_settings = 1.0, ()

    def __init__(self):
        self.computed = []

    def encode(self, inputs):
        return [self._encode(item.text) for item in inputs]

    def _encode(self, text):
        if len(text) > 20:
            return DoesNotFit("too long")
        tokens = [ord(letter) for letter in text if letter != "z"]
        return Encoded(tokens[:8], truncated=len(tokens) > 8, overlong=len(tokens) > 8)

    def forward(self, batch):
        self.computed += ["".join(map(chr, tokens)) for tokens in batch]
        if any(ord("?") in tokens for tokens in batch):
            raise ValueError("poison")
        return [[float(tokens.count(ord(letter))) for letter in LETTERS] for tokens in batch]


def score(completions, prompts=None, *, model=None, columns=None, **spec):
    """Return the scores of one request."""

    async def run():
        encoder = model or CountsLetters()
        with ThreadPoolExecutor(1) as pool:
            batcher = Batcher(encoder, Device(pool), QueueLimits())
            folder = SimpleNamespace(max_tokens=8, fingerprint="f", encoder=encoder, sentence=SentenceConfig("mean"))
            reward = SimilarityReward("near", SimilaritySpec(model="m", **spec), folder, batcher, TORCH)
            await reward.start()
            try:
                return await reward.score(Items(completions, prompts, columns or {}))
            finally:
                await reward.stop()

    return asyncio.run(run())


def test_cosine():
    """The score is the cosine: 1 for the same direction, 0 for nothing in common."""
    result = score(["aab", "ab", "c", "aa"], ["aab", "ba", "ab", "ab"])
    assert result.scores == pytest.approx([1.0, 1.0, 0.0, 0.5**0.5], abs=1e-12)
    assert result.tokens == [6, 4, 3, 4]


def test_computed_once():
    """Each distinct text of a request is computed once, a prompt that repeats in its group and an echo, too."""
    model = CountsLetters()
    score(["a", "b", "c", "ab", "ab"], ["ab", "ab", "ab", "cd", "cd"], model=model)
    assert sorted(model.computed) == ["a", "ab", "b", "c", "cd"]


def test_poison_text():
    """A text on which the model fails costs only the items that have it."""
    result = score(["a", "b", "ab"], ["ab", "?", "ab"])
    assert [result.errors[1].code, *result.errors] == ["backend_failed", 1]
    assert result.scores[::2] == pytest.approx([0.5**0.5, 1.0])


@pytest.mark.parametrize(
    ("completion", "prompt", "code"),
    [
        ("", "a", "nothing_to_read"),
        ("a", " ", "nothing_to_read"),
        ("z", "a", "nothing_to_read"),
        ("a", "z", "nothing_to_read"),
        ("a" * 21, "a", "does_not_fit"),
        ("a", "a" * 21, "does_not_fit"),
        ("y", "a", "not_finite"),
    ],
)
def test_no_score(completion, prompt, code):
    """What cannot be read, does not fit or has no direction is null with a reason, beside items that are scored."""
    model = CountsLetters()
    result = score([completion, "c"], [prompt, "c"], model=model)
    assert (result.scores, result.errors[0].code) == ([None, 1.0], code)
    assert code == "not_finite" or model.computed == ["c"]


def test_truncated():
    """Items of which something was not read are marked, those whose completion was cut as overlong."""
    result = score(["a" * 9, "a", "ab"], ["a", "a" * 9, "b"])
    assert (result.truncated, result.overlong) == ([0, 1], [0])


def test_last_chars_truncate():
    """A completion that `last_chars` cuts is truncated, not overlong: the configuration wants its end alone."""
    result = score(["ab"], ["b"], last_chars=1)
    assert (result.scores, result.truncated, result.overlong) == ([1.0], [0], [])


def test_needs():
    """Without the prompts or the column that it compares with, every item has the reason."""
    assert {error.code for error in score(["a", "b"]).errors.values()} == {"prompt_needed"}
    assert {error.code for error in score(["a", "b"], ["a", "b"], to="answer").errors.values()} == {"column_needed"}
    assert score(["a", "b"], to="answer", columns={"answer": ["a", None]}).scores == [1.0, None]


def test_no_items():
    """A request without items has no scores."""
    assert score([], []).scores == []

import math
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward_service.backends.base import Encoded
from reward_service.backends.end_tokens import ByEndTokens
from reward_service.backends.probe import (
    Expected,
    check_batches,
    check_exact,
    expected_logits,
    probe_batches,
    probe_tokens,
)
from reward_service.errors import ConfigError, DoesNotFit

TEXTS = [[1], [1, 2], [3] * 70]
FOLDER = SimpleNamespace(multi_label=False, embeds=False)


class Computed:
    """An engine that gives each text the logits of a function of the text and its batch."""

    padding_cost, numeric_settings = 1.0, ()

    def __init__(self, logits: Callable):
        self.logits, self.batches = logits, []

    def forward(self, batch):
        self.batches.append(batch)
        return [self.logits(tokens, batch) for tokens in batch]


def alone(tokens):
    return [float(sum(tokens)), 0.0]


def verdict(logits, dtype="float32"):
    backend = Computed(logits)
    return check_batches(backend, TEXTS, [backend.forward([text])[0] for text in TEXTS], dtype)


def test_same_in_batches():
    """A model whose texts score alike alone and in a batch computes batches."""
    assert verdict(lambda text, batch: alone(text)).batched


@pytest.mark.parametrize("place", [0, -1])
def test_differs_in_batches(place):
    """A model that reads another text of the batch, before or behind, computes one text at a time."""
    result = verdict(lambda text, batch: [sum(text), len(batch[place])])
    assert not result.batched
    assert result.difference > 1


def test_fails_in_batches():
    """A model that cannot compute a batch, or gives NaN in it, computes one text at a time."""
    assert not verdict(lambda text, batch: alone(text) if len(batch) == 1 else [math.nan, 0.0]).batched

    def only_one(text, batch):
        if len(batch) > 1:
            raise RuntimeError("cannot handle batch sizes > 1")
        return alone(text)

    assert verdict(only_one).difference == math.inf


@pytest.mark.parametrize(("dtype", "batched"), [("float32", False), ("bfloat16", True), ("int8", True)])
def test_rounding_in_batches(dtype, batched):
    """A difference of a percent is rounding in low precision, and none in float32."""
    assert verdict(lambda text, batch: [sum(text) * (1 + 0.01 * (len(batch) > 1)), 0.0], dtype).batched == batched


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("logits", [[0.0, 0.0], [math.nan, 0.0]])
def test_another_model(logits, dtype):
    """An engine that computes something else than transformers is refused."""
    expected = Expected(TEXTS, [[0.0, math.log(3)]] * 3)
    check_exact(Computed(lambda *_: [0.0, math.log(3)]), expected, dtype, FOLDER)
    with pytest.raises(ConfigError, match="something else than transformers"):
        check_exact(Computed(lambda *_: logits), expected, dtype, FOLDER)


def test_engine_that_fails():
    """An engine that fails on a text, or returns nothing for it, is refused with the reason."""
    with pytest.raises(ConfigError, match=r"it fails on a text that transformers computes.*IndexError"):
        check_exact(SimpleNamespace(forward=lambda batch: []), Expected(TEXTS, [[0.0, 1.0]] * 3), "float32", FOLDER)


def test_random_model():
    """A model that gives the same text another score each time is refused."""
    values = iter(range(100))
    with pytest.raises(ConfigError, match="another score each time"):
        expected_logits(lambda tokens: [float(next(values))], TEXTS, "m")


def test_texts_it_cannot_compute():
    """A text that transformers cannot compute alone is left out; a model that computes none is refused."""

    def no_single_tokens(tokens):
        if len(tokens) == 1:
            raise RuntimeError("kernel size can't be greater than actual input size")
        return alone(tokens)

    assert expected_logits(no_single_tokens, TEXTS, "m").tokens == TEXTS[1:]
    with pytest.raises(ConfigError, match="m cannot compute a simple sentence: RuntimeError: kernel"):
        expected_logits(no_single_tokens, TEXTS[:1], "m")
    with pytest.raises(ConfigError, match="NaN"):
        expected_logits(lambda tokens: [math.nan], TEXTS, "m")


@given(st.lists(st.integers(1, 200), min_size=2, max_size=9))
def test_every_text_in_company(lengths):
    """Every text is in a batch with another."""
    batches = list(probe_batches(lengths))
    assert {index for batch in batches for index in batch} == set(range(len(lengths)))
    assert all(len(batch) > 1 for batch in batches)


@pytest.mark.parametrize(("max_tokens", "longest"), [(512, 496), (4096, 1100), (40, 24)])
def test_probe_texts(max_tokens, longest):
    """The probe's texts fit the model, and the longest is almost as long as it reads."""

    def encode(inputs):
        lengths = [len(item.text.split()) + 2 for item in inputs]
        return [Encoded([1] * length, False) if length <= max_tokens else DoesNotFit("long") for length in lengths]

    encoder = SimpleNamespace(encode=encode)
    folder = SimpleNamespace(encoder=encoder, max_tokens=max_tokens, special_token_texts=["</s>"], uses_types=False)
    lengths = [len(tokens) for tokens in probe_tokens(folder, 1100)]
    assert longest * 0.5 < max(lengths) <= max(longest, max_tokens)


def test_end_tokens():
    """Texts with different numbers of end tokens are computed apart, and their rows come back in order."""
    backend = Computed(lambda text, batch: [float(sum(text))])
    batch = [[5, 2], [2, 6, 2], [7, 2], [8]]
    assert ByEndTokens(backend, 2).forward(batch) == [[7.0], [10.0], [9.0], [8.0]]
    assert backend.batches == [[[5, 2], [7, 2]], [[2, 6, 2]], [[8]]]

"""Probe a loaded model: are its scores those of transformers, and do they depend on the rest of a batch?

In: a few texts as tokens, and what transformers computes of each alone with the configuration as saved. Out: whether
the model may compute texts in batches, or `ConfigError` if it computes something else than transformers.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from reward_service.backends.base import Backend, Encoded, Logits, ModelInput, Tokens, probabilities
from reward_service.backends.model_folder import ModelFolder
from reward_service.errors import ConfigError, translating

TEXTS = resources.files("reward_service.backends").joinpath("probes.txt")
LONG_TOKENS = 1100
"""Length of the longest text: models that change their attention with the length, such as BigBird, do so before it."""
LONG_TOKENS_OF_LARGE_MODELS = 300
LARGE_BYTES = 100 << 20
"""Size of the weights from which a model is large: its probe would take minutes on a CPU."""
MARGIN_TOKENS = 16
"""Tokens that a probe text stays below the model's limit."""
BATCH_TOKENS = 64
"""Longest text of the batch of short ones."""
TOLERANCE = {"float32": 1e-4}
"""Largest difference between alone and in a batch, as a share of the largest logit if that is more than 1."""
LOW_PRECISION_TOLERANCE = 0.05
"""The same for other precisions, which round to 3 digits, as a share of the largest logit."""
FLOAT32_DEVIATION = 1e-3
"""Largest deviation of a float32 engine from float32 torch, as a share of the largest logit if that is more than 1."""
MAX_DEVIATION = 0.1
"""Largest deviation of any one score: an engine beyond it computes another model, e.g. a graph with fixed shapes."""


@dataclass(frozen=True, slots=True)
class Expected:
    """Probe texts, and the logits of each alone in transformers."""

    tokens: Sequence[Tokens]
    logits: Sequence[Logits]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a model may compute texts in batches."""

    batched: bool
    difference: float
    """Largest difference of a logit between alone and in a batch; infinite if it cannot compute the batch."""


class ReadsLogits(Protocol):
    """How a model's logits are read."""

    multi_label: bool

    @property
    def embeds(self) -> bool:
        """Return whether they are an embedding."""
        ...


def probe_tokens(folder: ModelFolder, longest: int) -> list[Tokens]:
    """Return the tokens of short texts, of texts with and ending in special tokens, and of one of `longest` tokens."""
    lines = TEXTS.read_text(encoding="utf-8").splitlines()
    special = [f"It was {token} all right.{token}" for token in folder.special_token_texts]
    texts = ["Fine.", lines[0], *special, " ".join(lines[1:5])]
    limit = min(longest, folder.max_tokens - MARGIN_TOKENS)
    texts += [_text_of(folder, lines, tokens) for tokens in (limit // 2, limit)]
    pairs = [ModelInput(lines[0], line) for line in lines[1:3]] if folder.uses_types else []
    inputs = encode([*map(ModelInput, texts), *pairs], folder)
    return [text.tokens for text in inputs if text.tokens and not text.truncated] or [inputs[0].tokens]


def encode(inputs: Sequence[ModelInput], folder: ModelFolder) -> list[Encoded]:
    """Tokenize those inputs that fit. Raise `ConfigError` if none does."""
    encoded = [item for item in folder.encoder.encode(inputs) if isinstance(item, Encoded)]
    if not encoded:
        raise ConfigError(f"a limit of {folder.max_tokens} tokens is too small for a simple sentence: raise max_tokens")
    return encoded


def _text_of(folder: ModelFolder, lines: Sequence[str], limit: int) -> str:
    """Return a text of almost `limit` tokens."""
    lengths, total, taken = [len(text.tokens) for text in encode([*map(ModelInput, lines)], folder)], 0, list[str]()
    while total + lengths[len(taken) % len(lengths)] <= limit:
        total += lengths[len(taken) % len(lengths)]
        taken.append(lines[len(taken) % len(lines)])
    return " ".join(taken) or lines[0]


def expected_logits(alone: Callable[[Tokens], Logits], tokens: Sequence[Tokens], model: str) -> Expected:
    """Compute each text alone. Texts that transformers cannot compute are left out. Raise `ConfigError`.

    A model with random parts, such as Reformer's hashing, gives a text another score each time and is refused; so is
    one that gives all texts the same score.
    """
    rows: list[tuple[Tokens, Logits]] = []
    failure: Exception | None = None
    for text in tokens:
        try:
            logits = alone(text)
        except Exception as error:  # such as a text that is shorter than a convolution
            failure = error
        else:
            rows.append((text, logits))
    rows = [(text, logits) for text, logits in rows if np.isfinite(logits).all()]
    if not rows:
        reason = (
            f"{type(failure).__name__}: {failure}"
            if failure
            else "all its outputs are NaN or infinite; choose dtype: float32, or take other weights"
        )
        raise ConfigError(f"{model} cannot compute a simple sentence: {reason}") from failure
    if len(rows) > 1 and largest_difference([logits for _, logits in rows[1:]], [rows[0][1]]) == 0:
        raise ConfigError(
            f"{model} gives every text the same score, as one whose head was not trained, or not saved whole: use "
            f"other weights"
        )
    short = [row for row in rows if len(row[0]) <= LONG_TOKENS_OF_LARGE_MODELS] or rows
    text, logits = max(short, key=lambda row: len(row[0]))
    if largest_difference([logits], [alone(text)]) > TOLERANCE["float32"] * max(1.0, _scale([logits])):
        raise ConfigError(
            f"{model} gives the same text another score each time, because it computes with random numbers; use a "
            f"model without them"
        )
    return Expected([text for text, _ in rows], [logits for _, logits in rows])


def check_exact(backend: Backend, expected: Expected, dtype: str, folder: ReadsLogits) -> list[Logits]:
    """Return each text's logits, computed alone. Raise `ConfigError` if they are not those of transformers."""
    with translating(ConfigError, "it fails on a text that transformers computes; choose another engine"):
        actual = [backend.forward([text])[0] for text in expected.tokens]
    if dtype == "float32":
        deviation = largest_difference(expected.logits, actual)
        allowed = FLOAT32_DEVIATION * max(1.0, _scale(expected.logits))
    else:
        deviation, allowed = float(deviations(expected.logits, actual, folder).max()), MAX_DEVIATION
    if not deviation <= allowed:  # NaN is not
        raise ConfigError(
            f"it computes something else than transformers, scores are off by {deviation:.2g}; choose another engine"
        )
    return actual


def check_batches(backend: Backend, tokens: Sequence[Tokens], alone: Sequence[Logits], dtype: str) -> Verdict:
    """Compare each text alone with the same text in batches of mixed lengths."""
    difference = 0.0
    for indices in probe_batches([len(text) for text in tokens]):
        try:
            rows = backend.forward([tokens[index] for index in indices])
            difference = max(difference, largest_difference([alone[index] for index in indices], rows))
        except Exception:  # a model that cannot compute this batch computes its texts one at a time
            return Verdict(batched=False, difference=float("inf"))
    return Verdict(_within(difference, alone, dtype), difference)


def probe_batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield batches of text indices: the short texts, in both orders, and the longer ones with the shortest."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    short = [index for index in order if lengths[index] <= BATCH_TOKENS] or order[:1]
    long = [order[0], *(index for index in order if lengths[index] > BATCH_TOKENS)]
    for batch in (short, short[::-1], long):
        if len(batch) > 1:
            yield batch


def _within(difference: float, logits: Sequence[Logits], dtype: str) -> bool:
    if dtype in TOLERANCE:
        return difference <= TOLERANCE[dtype] * max(1.0, _scale(logits))
    return difference <= LOW_PRECISION_TOLERANCE * _scale(logits)


def _scale(logits: Sequence[Logits]) -> float:
    return float(np.abs(np.asarray(logits)).max())


def largest_difference(expected: Sequence[Logits], actual: Sequence[Logits]) -> float:
    """Return the largest difference of any logit; infinite where one of them is NaN."""
    difference = float(np.abs(np.asarray(expected) - np.asarray(actual)).max())
    return float("inf") if np.isnan(difference) else difference


def deviations(reference: Sequence[Logits], logits: Sequence[Logits], folder: ReadsLogits) -> NDArray[np.float64]:
    """Return the deviation of each text's score, (texts,).

    It is in probability, as a share of a regressor's range, or in the cosine of an embedding and the next text's.
    """
    if folder.embeds:
        return np.asarray(np.abs(_cosines(reference) - _cosines(logits)))
    if len(reference[0]) == 1:
        expected, actual = (np.asarray(rows, dtype=float)[:, 0] for rows in (reference, logits))
        return np.asarray(np.abs(expected - actual) / max(float(np.ptp(expected)), 1e-9))
    expected, actual = (
        np.array([probabilities(row, multi_label=folder.multi_label) for row in rows]) for rows in (reference, logits)
    )
    return np.asarray(np.abs(expected - actual).max(axis=1))


def _cosines(rows: Sequence[Logits]) -> NDArray[np.float64]:
    embeddings = np.asarray(rows, dtype=np.float64)  # (texts, features)
    units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    return np.asarray((units * np.roll(units, 1, axis=0)).sum(axis=1))

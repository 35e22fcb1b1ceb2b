"""Benchmark engines on a fixed set of texts: the speed of each, and the deviation of its scores from float32 torch."""

import random
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from reward_service.backends.base import Backend, Logits, Tokens, probabilities
from reward_service.backends.engines import REFERENCE, Engine, load
from reward_service.backends.model_folder import ModelFolder
from reward_service.batch_planning import plan_batches
from reward_service.errors import ConfigError
from shared.model_store.progress import log

PROBES = resources.files("reward_service.backends").joinpath("probes.txt")
ROUNDS = 2
QUEUE_SAMPLE = 64
"""Texts that batches are planned from, as many as a usual load has in the queue."""
MIN_RELATIVE_SPEED = 0.5
"""Speed on four long texts, relative to the reference, below which an engine is not measured further."""
MAX_DEVIATION = 0.1
"""Largest deviation of any one score: an engine beyond it computes another model, e.g. a graph with fixed shapes."""
LONG_CHARS = 8_000
"""Characters of the long text of the equivalence check."""
BUDGETS_TOKENS = (1024, 2048)
"""Batch sizes that are measured: larger ones are no faster on a CPU, and delay single texts."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """The result of one engine, with the batch size that suits it best."""

    engine: Engine
    max_batch_tokens: int = BUDGETS_TOKENS[-1]
    texts_per_s: float | None = None
    """None if it was not measured, because there was no choice."""
    error: float | None = None
    """99th percentile of the deviation from float32 torch: in probability, or as a share of a regressor's range."""


class ReadsLogits(Protocol):
    """How a model's logits are read."""

    multi_label: bool


def measure(folder: ModelFolder, engines: Sequence[Engine], threads: int) -> list[Measurement]:
    """Measure the engines in turns, round by round, so that other load on the machine affects all of them."""
    tokens = probe_tokens(folder)
    backends = load_all(folder, engines, threads, sample=sorted(tokens, key=len)[-4:])
    seconds: defaultdict[tuple[Engine, int], float] = defaultdict(float)
    logits: dict[Engine, list[Logits]] = {}
    for round_ in range(ROUNDS):
        for engine, backend in backends.items():
            for budget in BUDGETS_TOKENS:
                started_s = time.monotonic()
                logits[engine] = forward_mixed(backend, tokens, budget, seed=round_)
                seconds[engine, budget] += time.monotonic() - started_s
    measurements = []
    for engine in (engine for engine in backends if engine in engines):
        budget = min(BUDGETS_TOKENS, key=lambda budget: seconds[engine, budget])
        rate = ROUNDS * len(tokens) / seconds[engine, budget]
        error = score_error(logits[REFERENCE], logits[engine], folder)
        measurements.append(Measurement(engine, budget, rate, error))
    return measurements


def forward_mixed(backend: Backend, tokens: Sequence[Tokens], budget_tokens: int, seed: int) -> list[Logits]:
    """Return the logits of texts in random order, a few requests at a time, so that no batch shape repeats.

    With repeating shapes, an engine that compiles something for each new shape would seem faster than in service.
    """
    order, logits = random.Random(seed).sample(range(len(tokens)), len(tokens)), dict[int, Logits]()
    for start in range(0, len(order), QUEUE_SAMPLE):
        queue = order[start : start + QUEUE_SAMPLE]
        for batch in plan_batches([len(tokens[index]) for index in queue], budget_tokens, backend.padding_cost):
            indices = [queue[place] for place in batch]
            logits.update(zip(indices, backend.forward([tokens[index] for index in indices]), strict=True))
    return [logits[index] for index in range(len(tokens))]


def probe_tokens(folder: ModelFolder) -> list[Tokens]:
    """Return the tokens of the fixed texts."""
    return [text.tokens for text in folder.encode(PROBES.read_text(encoding="utf-8").splitlines())]


def load_all(
    folder: ModelFolder, engines: Sequence[Engine], threads: int, sample: Sequence[Tokens]
) -> dict[Engine, Backend]:
    """Load the reference, and each engine that can run the model, is equivalent to it, and not far slower on `sample`.

    An engine that cannot is reported and left out.
    """
    backends = {REFERENCE: load(REFERENCE, folder, threads)}
    reference_s = _time_batch(backends[REFERENCE], sample)
    for engine in (engine for engine in engines if engine != REFERENCE):
        try:
            backend = load(engine, folder, threads)
            if _time_batch(backend, sample) <= reference_s / MIN_RELATIVE_SPEED:
                check_equivalent(backends[REFERENCE], backend, folder)
                backends[engine] = backend
        except Exception as error:
            log(f"{engine} cannot run {folder.path.name}: {error}")
    return backends


def check_equivalent(reference: Backend, backend: Backend, folder: ModelFolder) -> None:
    """Raise `ConfigError` if any score, of short texts or of a long one, deviates by more than `MAX_DEVIATION`."""
    lines = PROBES.read_text(encoding="utf-8")
    texts = [lines[:LONG_CHARS], *lines.splitlines()[:: len(lines.splitlines()) // 8]]
    tokens = [text.tokens for text in folder.encode(texts)]
    expected = [reference.forward([text])[0] for text in tokens]
    actual = [backend.forward(tokens[:1])[0], *backend.forward(tokens[1:])]
    deviation = float(deviations(expected, actual, folder).max())
    if not deviation <= MAX_DEVIATION:  # NaN is not
        raise ConfigError(f"it computes something else than float32 torch, scores are off by {deviation:.2g}")


def _time_batch(backend: Backend, batch: Sequence[Tokens]) -> float:
    backend.forward(batch)  # the first call of a shape compiles
    started_s = time.monotonic()
    backend.forward(batch)
    return time.monotonic() - started_s


def score_error(reference: Sequence[Logits], logits: Sequence[Logits], folder: ReadsLogits) -> float:
    """Return the 99th percentile of the scores' deviations. Both arguments are (texts, labels)."""
    return float(np.quantile(deviations(reference, logits, folder), 0.99))


def deviations(reference: Sequence[Logits], logits: Sequence[Logits], folder: ReadsLogits) -> NDArray[np.float64]:
    """Return the deviation of each text's score, (texts,): in probability, or as a share of a regressor's range."""
    if len(reference[0]) == 1:
        expected, actual = (np.asarray(rows, dtype=float)[:, 0] for rows in (reference, logits))
        return np.asarray(np.abs(expected - actual) / max(float(np.ptp(expected)), 1e-9))
    expected, actual = (
        np.array([probabilities(row, multi_label=folder.multi_label) for row in rows]) for rows in (reference, logits)
    )
    return np.asarray(np.abs(expected - actual).max(axis=1))

"""Measure engines on a fixed set of texts: how fast each is, and how far its scores are from float32 torch's."""

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
"""Texts among which batches are cut, as under a usual load."""
MIN_RELATIVE_SPEED = 0.5
"""An engine below this share of the reference's speed on four long texts is measured no further."""
MAX_DEVIATION = 0.1
"""An engine that is further off than that on a single text computes something else: a graph that was traced may hold
the shapes of what it was traced with."""
LONG_CHARS = 8_000
BUDGETS_TOKENS = (1024, 2048)
"""Batches that are tried: larger ones are no faster on a CPU, and make single texts wait."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """How an engine did on the fixed texts, in batches of the size that suits it best."""

    engine: Engine
    max_batch_tokens: int = BUDGETS_TOKENS[-1]
    texts_per_s: float | None = None
    """None where it was not measured, because there was no choice."""
    error: float | None = None
    """The 99th percentile of the distance from float32 torch: in probability, or as a share of a regressor's range."""


class ReadsLogits(Protocol):
    """What tells how logits are read."""

    multi_label: bool


def measure(folder: ModelFolder, engines: Sequence[Engine], threads: int) -> list[Measurement]:
    """Measure the engines in turns, the reference first, so that a noisy moment is shared."""
    tokens = probes(folder)
    backends = load_all(folder, engines, threads, few=sorted(tokens, key=len)[-4:])
    seconds: defaultdict[tuple[Engine, int], float] = defaultdict(float)
    logits: dict[Engine, list[Logits]] = {}
    for round_ in range(ROUNDS):
        for engine, backend in backends.items():
            for budget in BUDGETS_TOKENS:
                began_s = time.monotonic()
                logits[engine] = score_mixed(backend, tokens, budget, seed=round_)
                seconds[engine, budget] += time.monotonic() - began_s
    found = []
    for engine in (each for each in backends if each in engines):
        budget = min(BUDGETS_TOKENS, key=lambda budget: seconds[engine, budget])
        rate = ROUNDS * len(tokens) / seconds[engine, budget]
        found.append(Measurement(engine, budget, rate, error(logits[REFERENCE], logits[engine], folder)))
    return found


def score_mixed(backend: Backend, tokens: Sequence[Tokens], budget_tokens: int, seed: int) -> list[Logits]:
    """Score texts as they come to a service, a few requests at a time: no shape of batch comes twice.

    An engine that compiles something for each new shape would seem faster than it will be, if shapes came again.
    """
    order, logits = random.Random(seed).sample(range(len(tokens)), len(tokens)), dict[int, Logits]()
    for start in range(0, len(order), QUEUE_SAMPLE):
        waiting = order[start : start + QUEUE_SAMPLE]
        for batch in plan_batches([len(tokens[index]) for index in waiting], budget_tokens, backend.padding_cost):
            chosen = [waiting[place] for place in batch]
            logits.update(zip(chosen, backend.forward([tokens[index] for index in chosen]), strict=True))
    return [logits[index] for index in range(len(tokens))]


def probes(folder: ModelFolder) -> list[Tokens]:
    """Give the texts by which engines are compared."""
    return [text.tokens for text in folder.encode(PROBES.read_text(encoding="utf-8").splitlines())]


def load_all(
    folder: ModelFolder, engines: Sequence[Engine], threads: int, few: Sequence[Tokens]
) -> dict[Engine, Backend]:
    """Load the reference and every engine that can run the model, is the same model, and not hopelessly slow."""
    backends = {REFERENCE: load(REFERENCE, folder, threads)}
    pace = _time_batch(backends[REFERENCE], few)
    for engine in (each for each in engines if each != REFERENCE):
        try:
            backend = load(engine, folder, threads)
            if _time_batch(backend, few) <= pace / MIN_RELATIVE_SPEED:
                check_equivalent(backends[REFERENCE], backend, folder)
                backends[engine] = backend
        except Exception as problem:
            log(f"{engine} cannot run {folder.path.name}: {problem}")
    return backends


def check_equivalent(reference: Backend, backend: Backend, folder: ModelFolder) -> None:
    """Raise `ConfigError` where an engine computes something else than the reference of a short or of a long text."""
    lines = PROBES.read_text(encoding="utf-8")
    texts = [lines[:LONG_CHARS], *lines.splitlines()[:: len(lines.splitlines()) // 8]]
    tokens = [text.tokens for text in folder.encode(texts)]
    right = [reference.forward([each])[0] for each in tokens]
    found = [backend.forward(tokens[:1])[0], *backend.forward(tokens[1:])]
    if not (off := float(distances(right, found, folder).max())) <= MAX_DEVIATION:
        raise ConfigError(f"it computes something else than float32 torch, scores are off by {off:.2g}")


def _time_batch(backend: Backend, few: Sequence[Tokens]) -> float:
    backend.forward(few)  # the first call of a shape compiles
    began_s = time.monotonic()
    backend.forward(few)
    return time.monotonic() - began_s


def error(reference: Sequence[Logits], logits: Sequence[Logits], folder: ReadsLogits) -> float:
    """Give the 99th percentile of the distance of what is read from the logits: (texts, labels) both."""
    return float(np.quantile(distances(reference, logits, folder), 0.99))


def distances(reference: Sequence[Logits], logits: Sequence[Logits], folder: ReadsLogits) -> NDArray[np.float64]:
    """Give how far off each text's score is: in probability, or as a share of a regressor's range."""
    right, found = np.asarray(reference, dtype=float), np.asarray(logits, dtype=float)
    if right.shape[1] == 1:
        return np.asarray(np.abs(right - found)[:, 0] / max(float(np.ptp(right)), 1e-9))
    right, found = (
        np.array([probabilities(row, multi_label=folder.multi_label) for row in rows]) for rows in (reference, logits)
    )
    return np.asarray(np.abs(right - found).max(axis=1))

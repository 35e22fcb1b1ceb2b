"""Benchmark engines on a fixed set of texts: the speed of each, and the deviation of its scores from float32 torch."""

import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from reward_service.backends.base import Backend, Logits, ModelInput, Tokens
from reward_service.backends.engines import REFERENCE, Engine, by_end_tokens, load, load_torch, on_gpu
from reward_service.backends.model_folder import ModelFolder
from reward_service.backends.probe import TEXTS, Expected, ReadsLogits, deviations, encode
from reward_service.backends.probe_engine import check_engine, expected_for, free_memory
from reward_service.batch_planning import plan_batches
from shared.model_store.progress import log

ROUNDS = 2
QUEUE_SAMPLE = 64
"""Texts that batches are planned from, as many as a usual load has in the queue."""
MIN_RELATIVE_SPEED = 0.5
"""Speed on four long texts, relative to the reference, below which an engine is not measured further."""
BUDGETS_TOKENS = (1024, 2048)
"""Batch sizes that are measured: larger ones are no faster on a CPU, and delay single texts."""
GPU_REPEATS, GPU_QUEUE_SAMPLE = 8, 256
"""On a GPU the fixed texts are computed so many times in one round, and batches are planned from so many of them."""
MIN_GAIN = 0.05
"""Share of the time that doubling the batch must save on a GPU."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """The result of one engine, with the batch size that suits it best."""

    engine: Engine
    max_batch_tokens: int = BUDGETS_TOKENS[-1]
    texts_per_s: float | None = None
    """None if it was not measured, because there was no choice."""
    error: float | None = None
    """99th percentile of the deviation from float32 torch, in probability, cosine, or share of a regressor's range."""
    batched: bool = True
    """Whether texts are computed in batches; else one at a time, because others in the batch change their scores."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What one engine made of the fixed texts."""

    seconds: dict[int, float]
    """Seconds of the faster round for all texts, by batch size in tokens."""
    logits: list[Logits]
    batched: bool
    sample_s: float
    """Seconds of a few long texts."""


def measure(folder: ModelFolder, engines: Sequence[Engine], threads: int) -> list[Measurement]:
    """Measure one engine after the other, so that only one copy of the model is in memory.

    Raise `ConfigError` if torch itself cannot compute the model reliably. Another engine that cannot, that is not
    equivalent, or that is far slower on a few long texts, is reported and left out.
    """
    tokens = probe_tokens(folder)
    sample = sorted(tokens, key=len)[-4:]
    expected, reference = _try_reference(folder, tokens, sample)
    trials = {REFERENCE: reference}
    for engine in (engine for engine in engines if engine != REFERENCE):
        free_memory()
        try:
            backend: Backend | None = load(engine, folder, threads)
            assert backend is not None
            sample_s = _time_batch(backend, sample)
            if sample_s <= reference.sample_s / MIN_RELATIVE_SPEED:
                batched = check_engine(backend, expected, engine, folder).batched and reference.batched
                trials[engine] = _try(backend, tokens, batched, sample_s, gpu=on_gpu(engine))
        except Exception as error:
            log(f"{engine} cannot run {folder.path.name}: {error}")
        backend = None
    free_memory()
    return [_result(engine, trials[engine], reference, folder) for engine in engines if engine in trials]


def _try_reference(folder: ModelFolder, tokens: Sequence[Tokens], sample: Sequence[Tokens]) -> tuple[Expected, Trial]:
    model = load_torch(folder)
    expected, backend = expected_for(folder, model), by_end_tokens(model, folder)
    batched = check_engine(backend, expected, REFERENCE, folder).batched
    return expected, _try(backend, tokens, batched, _time_batch(backend, sample), gpu=on_gpu(REFERENCE))


def _try(backend: Backend, tokens: Sequence[Tokens], batched: bool, sample_s: float, *, gpu: bool) -> Trial:
    if gpu:
        seconds, logits = grow_batches(backend, tokens, batched=batched)
        return Trial(seconds, logits, batched, sample_s)
    trial = Trial({}, [], batched, sample_s)
    for round_ in range(ROUNDS):
        for budget in BUDGETS_TOKENS:
            started_s = time.monotonic()
            trial.logits[:] = forward_mixed(backend, tokens, budget, seed=round_, batched=batched)
            trial.seconds[budget] = min(trial.seconds.get(budget, math.inf), time.monotonic() - started_s)
    return trial


def gpu_batch_tokens(folder: ModelFolder, engine: Engine, threads: int, *, batched: bool) -> int:
    """Return the batch size in tokens that suits an engine on this GPU."""
    seconds, _ = grow_batches(load(engine, folder, threads), probe_tokens(folder), batched=batched)
    free_memory()
    return max(seconds)


def grow_batches(backend: Backend, tokens: Sequence[Tokens], *, batched: bool) -> tuple[dict[int, float], list[Logits]]:
    """Double the batch size on a GPU until that saves too little time, or memory does not suffice.

    Return the seconds for all texts by batch size in tokens, and the logits. Of the sizes that fit, the largest one is
    left out if twice as many tokens did not fit: the memory is also for longer texts and other models.
    """
    seconds, logits, budget = dict[int, float](), list[Logits](), BUDGETS_TOKENS[-1]
    texts = [*tokens] * GPU_REPEATS
    while True:
        round_s = math.inf
        try:
            for round_ in range(ROUNDS):
                started_s = time.monotonic()
                logits = forward_mixed(
                    backend, texts, budget, seed=round_, batched=batched, queue_texts=GPU_QUEUE_SAMPLE
                )
                round_s = min(round_s, time.monotonic() - started_s)
        except torch.OutOfMemoryError:
            if not seconds:
                raise
            free_memory()
            if len(seconds) > 1:
                del seconds[budget // 2]
            break
        if seconds and round_s / GPU_REPEATS > (1 - MIN_GAIN) * seconds[budget // 2]:
            break
        seconds[budget] = round_s / GPU_REPEATS
        budget *= 2
    return seconds, logits[: len(tokens)]


def _result(engine: Engine, trial: Trial, reference: Trial, folder: ModelFolder) -> Measurement:
    budget = min(trial.seconds, key=trial.seconds.__getitem__)
    rate = len(trial.logits) / trial.seconds[budget]
    return Measurement(engine, budget, rate, score_error(reference.logits, trial.logits, folder), trial.batched)


def forward_mixed(
    backend: Backend,
    tokens: Sequence[Tokens],
    budget_tokens: int,
    seed: int,
    *,
    batched: bool,
    queue_texts: int = QUEUE_SAMPLE,
) -> list[Logits]:
    """Return the logits of texts in random order, a few requests at a time, so that no batch shape repeats.

    With repeating shapes, an engine that compiles something for each new shape would seem faster than in service.
    """
    order, logits = random.Random(seed).sample(range(len(tokens)), len(tokens)), dict[int, Logits]()
    for start in range(0, len(order), queue_texts):
        queue = order[start : start + queue_texts]
        lengths = [len(tokens[index]) for index in queue]
        batches = plan_batches(lengths, budget_tokens if batched else 0, backend.padding_cost)
        for batch in batches:
            indices = [queue[place] for place in batch]
            logits.update(zip(indices, backend.forward([tokens[index] for index in indices]), strict=True))
    return [logits[index] for index in range(len(tokens))]


def probe_tokens(folder: ModelFolder) -> list[Tokens]:
    """Return the tokens of the fixed texts."""
    lines = TEXTS.read_text(encoding="utf-8").splitlines()
    return [text.tokens for text in encode([*map(ModelInput, lines)], folder)]


def _time_batch(backend: Backend, batch: Sequence[Tokens]) -> float:
    backend.forward(batch)  # the first call of a shape compiles
    started_s = time.monotonic()
    backend.forward(batch)
    return time.monotonic() - started_s


def score_error(reference: Sequence[Logits], logits: Sequence[Logits], folder: ReadsLogits) -> float:
    """Return the 99th percentile of the scores' deviations. Both arguments are (texts, labels)."""
    return float(np.quantile(deviations(reference, logits, folder), 0.99))

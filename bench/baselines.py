"""Baselines without HTTP: the pipeline of transformers, and each engine in a bare loop."""

import time
from collections.abc import Callable, Sequence

from reward_service.backends.engines import Engine, load
from reward_service.backends.model_folder import ModelFolder
from reward_service.batch_planning import plan_batches
from reward_service.process import usable_cores
from shared.model_store import resolve

Loop = Callable[[Sequence[str]], float]
"""Scores texts and returns the seconds that took."""
BUDGET_TOKENS = 1024
"""The fastest of 512, 1024 and 2048, by a small margin."""


def pipeline_loop(batch_size: int = 1) -> Loop:
    """Return a loop over `pipeline(texts)`, which single-process training scripts score with."""
    from transformers import pipeline

    classify = pipeline("text-classification", model=str(resolve("embedded:sentiment")), device="cpu")

    def loop(texts: Sequence[str]) -> float:
        started_s = time.monotonic()
        classify(list(texts), batch_size=batch_size, truncation=True, max_length=512)
        return time.monotonic() - started_s

    return loop


def engine_loop(engine: Engine, budget_tokens: int = BUDGET_TOKENS) -> Loop:
    """Return a loop over an engine: tokenize everything, sort by length, compute batches of `budget_tokens`."""
    folder = ModelFolder(resolve("embedded:sentiment"))
    backend = load(engine, folder, usable_cores())

    def loop(texts: Sequence[str]) -> float:
        started_s = time.monotonic()
        tokens = [text.tokens for text in folder.encode(texts)]
        for batch in plan_batches([*map(len, tokens)], budget_tokens, backend.padding_cost):
            backend.forward([tokens[index] for index in batch])
        return time.monotonic() - started_s

    return loop

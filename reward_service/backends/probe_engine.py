"""Load a model into an engine for its probe, one copy at a time, and free it again."""

import gc
from typing import TYPE_CHECKING

import torch

from reward_service.backends.base import Backend
from reward_service.backends.engines import REFERENCE, Engine, by_end_tokens, load, load_torch
from reward_service.backends.model_folder import ModelFolder
from reward_service.backends.probe import (
    LARGE_BYTES,
    LONG_TOKENS,
    LONG_TOKENS_OF_LARGE_MODELS,
    Expected,
    Verdict,
    check_batches,
    check_exact,
    expected_logits,
    probe_tokens,
)
from reward_service.process import trim_heap

if TYPE_CHECKING:
    from reward_service.backends.torch_backend import TorchBackend


def probe_engine(folder: ModelFolder, engine: Engine, threads: int) -> Verdict:
    """Probe a model in the engine that will serve it. Raise `ConfigError` if it is not equivalent to transformers.

    A model in torch is compared with itself, so that no second copy is loaded; any other with torch in float32.
    """
    if engine.backend == REFERENCE.backend:
        verdict = probe_torch(folder, engine)[1]
        free_memory()
        return verdict
    expected, verdict = probe_torch(folder, REFERENCE)
    free_memory()
    own_verdict = check_engine(load(engine, folder, threads), expected, engine, folder)
    free_memory()
    return own_verdict if verdict.batched else verdict


def probe_torch(folder: ModelFolder, engine: Engine) -> tuple[Expected, Verdict]:
    """Probe a model in torch. Return what transformers computes of the probe texts, and the verdict."""
    model = load_torch(folder, engine.dtype)
    expected = expected_for(folder, model)
    return expected, check_engine(by_end_tokens(model, folder), expected, engine, folder)


def expected_for(folder: ModelFolder, model: "TorchBackend") -> Expected:
    """Compute the probe texts alone. Raise `ConfigError`."""
    changes_attention = hasattr(folder.config.get_text_config(), "block_size")  # BigBird, at 700 tokens
    large = folder.weights_bytes > LARGE_BYTES and not changes_attention and not torch.cuda.is_available()
    tokens = probe_tokens(folder, LONG_TOKENS_OF_LARGE_MODELS if large else LONG_TOKENS)
    return expected_logits(model.alone, tokens, folder.path.name)


def check_engine(backend: Backend, expected: Expected, engine: Engine, folder: ModelFolder) -> Verdict:
    """Return whether a loaded model may compute batches. Raise `ConfigError` if it is not equivalent."""
    alone = check_exact(backend, expected, engine.dtype, folder)
    verdict = check_batches(backend, expected.tokens, alone, engine.dtype)
    return Verdict(False, verdict.difference) if folder.longest_text_decides else verdict


def free_memory() -> None:
    """Return the memory of models that are no longer in use: their modules are reference cycles."""
    gc.collect()
    trim_heap()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

"""Batch sizes on a GPU, with a stand-in for one: a clock and a memory of its own."""

from types import SimpleNamespace

import pytest
import torch

from reward_service.backends import benchmark, engines, selection
from reward_service.backends.benchmark import Measurement, grow_batches
from reward_service.backends.engines import FLOAT16, REFERENCE, Engine, candidates
from reward_service.backends.probe import Verdict


class StandInGpu:
    """Computes a batch in `overhead_s` and 1 µs a token; a batch of more than `memory_tokens` does not fit."""

    padding_cost, numeric_settings = 1.0, ()

    def __init__(self, overhead_s, memory_tokens=2**30):
        self.overhead_s, self.memory_tokens, self.clock_s = overhead_s, memory_tokens, 0.0

    def forward(self, batch):
        tokens = len(batch) * max(map(len, batch))
        if tokens > self.memory_tokens:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.clock_s += self.overhead_s + 1e-6 * tokens
        return [[float(len(text))] for text in batch]


@pytest.fixture
def grow(monkeypatch):
    """Measure batches of a stand-in for a GPU, on 128 texts of 100 tokens."""

    def measure(gpu):
        monkeypatch.setattr(benchmark, "time", SimpleNamespace(monotonic=lambda: gpu.clock_s))
        return grow_batches(gpu, [[1] * 100] * 128, batched=True)

    return measure


def test_batches_grow_while_faster(grow):
    """The batch is doubled as long as that saves time: further on a device with more overhead a batch."""
    sizes = [max(grow(StandInGpu(overhead_s))[0]) for overhead_s in (0.0, 1e-3, 1.0)]
    assert sizes == [2048, 16384, 32768]


def test_batches_fit_into_memory(grow):
    """Where twice as many tokens do not fit, half of what fits is used, and the scores are complete."""
    seconds, logits = grow(StandInGpu(1.0, memory_tokens=10_000))
    assert list(seconds) == [2048, 4096]
    assert logits == [[100.0]] * 128


def test_smallest_batch_too_large(grow):
    """A model that leaves no memory for the smallest batch is an error, not a score."""
    with pytest.raises(torch.OutOfMemoryError):
        grow(StandInGpu(1.0, memory_tokens=1000))


def test_configured_engine_on_gpu(tmp_path, monkeypatch):
    """The batch size of a configured engine is measured on a GPU."""
    monkeypatch.setenv("REMOTE_REWARDS_HOME", str(tmp_path))
    monkeypatch.setattr(selection, "probe_engine", lambda *args: Verdict(True, 0.0))
    monkeypatch.setattr(selection, "on_gpu", lambda engine: engine.backend == "torch")
    monkeypatch.setattr(selection, "gpu_batch_tokens", lambda *args, batched: 16384)
    folder = SimpleNamespace(fingerprint="f", path=tmp_path)
    for engine, size in ((REFERENCE, 16384), (Engine("openvino", "float32"), 2048)):
        assert selection.verified(folder, engine, 2) == Measurement(engine, size)


@pytest.mark.parametrize("gpu", [False, True])
def test_float16_candidates(gpu, monkeypatch):
    """float16 is measured on a GPU alone, and used anywhere if it is set."""
    monkeypatch.setattr(engines, "on_gpu", lambda engine: gpu)
    assert (FLOAT16 in candidates(None, None)) == gpu
    assert candidates(None, "float16") == candidates("torch", "float16") == [FLOAT16]

"""`make bench-engines`: one process, no HTTP: how fast and how far off each engine is, and how near to the hardware.

Beside the engines of the service stand 8-bit integers as ONNX Runtime's own tool makes them. Errors are against
float32 torch. What the hardware could do is the speed of a matrix product of the model's own shape, alone; what
packing sequences could save is the padding.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
import torch
from onnxruntime.quantization import quantize_dynamic
from torch.utils.flop_counter import FlopCounterMode

from bench.baselines import BUDGET_TOKENS
from bench.report import machine, markdown, write
from bench.texts import texts
from reward_service.backends.base import Backend, Logits, Tokens
from reward_service.backends.benchmark import QUEUE_SAMPLE, score_error
from reward_service.backends.collate import padded
from reward_service.backends.engines import REFERENCE, candidates, forward_all, load
from reward_service.backends.model_folder import ModelFolder
from reward_service.backends.onnx_export import trace
from reward_service.backends.onnxruntime_backend import OnnxBackend
from reward_service.batch_planning import plan_batches
from reward_service.errors import ConfigError
from reward_service.process import usable_cores
from shared.model_store import resolve

UNSEEN = 500
INT8 = "onnxruntime int8 (one step a batch)"
PRODUCT, HARDWARE = "float32 matrix product alone", "of the speed of matrix products"
Batches = list[list[Tokens]]


def main() -> None:
    """Measure, print the table, write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--texts", type=int, default=256, help="texts a measurement of speed")
    args = parser.parse_args()
    folder = ModelFolder(resolve("embedded:sentiment"))
    backends = every_backend(folder)
    tokens = [text.tokens for text in folder.encode(texts(args.texts))]
    rates, useful = speeds(backends, tokens, args.rounds), operations(folder, tokens) / len(tokens)
    unseen = in_batches([text.tokens for text in folder.encode(texts(UNSEEN, seed=7))])
    logits = {name: forward_all(backend, unseen) for name, backend in backends.items()}
    rows = table(rates, useful, logits, folder)
    rows.append([f"padding among {QUEUE_SAMPLE} texts that wait", f"{padding(unseen):.0%} of tokens", "", "", "", ""])
    write("engines", {"rows": rows[1:]}, markdown(rows))
    print(markdown(rows))


def every_backend(folder: ModelFolder) -> dict[str, Backend]:
    """Load what this machine can run, the reference first."""
    found: dict[str, Backend] = {}
    for engine in candidates(None, None):
        try:
            found[str(engine)] = load(engine, folder, usable_cores())
        except ConfigError as problem:
            print(f"{engine}: {problem}", flush=True)
    return {**found, INT8: quantized(folder)}


def quantized(folder: ModelFolder) -> OnnxBackend:
    """Give ONNX Runtime in 8-bit integers: weights by channel, activations by what each batch holds.

    Weights have 7 bits, as its manual advises, on processors that would overflow otherwise.
    """
    with tempfile.TemporaryDirectory() as scratch:
        graph, small = Path(scratch) / "graph.onnx", Path(scratch) / "int8.onnx"
        trace(folder, graph)
        quantize_dynamic(graph, small, per_channel=True, reduce_range="avx512_vnni" not in machine()["instructions"])
        return OnnxBackend(folder, usable_cores(), small)


def speeds(backends: dict[str, Backend], tokens: Sequence[Tokens], rounds: int) -> dict[str, float]:
    """Give the texts that each scores in a second, the median of the rounds; all take turns, matrix products too."""
    batches, seconds = in_batches(tokens), {name: list[float]() for name in [*backends, PRODUCT]}
    for backend in backends.values():
        forward_all(backend, batches)
    for _ in range(rounds):
        for name, backend in backends.items():
            began_s = time.monotonic()
            forward_all(backend, batches)
            seconds[name].append((time.monotonic() - began_s) / len(tokens))
        seconds[PRODUCT].append(product_s())
    return {name: 1 / median(each) for name, each in seconds.items()}


def product_s() -> float:
    """Give the seconds that 10^9 operations take in a product of the model's shape, (tokens, 384) × (384, 1536)."""
    with torch.inference_mode():
        left, right = torch.rand(BUDGET_TOKENS, 384), torch.rand(384, 1536)
        left @ right
        began_s = time.monotonic()
        for _ in range(50):
            left @ right
        return (time.monotonic() - began_s) / (50 * 2 * BUDGET_TOKENS * 384 * 1536 / 1e9)


def operations(folder: ModelFolder, tokens: Sequence[Tokens]) -> float:
    """Give the floating-point operations that the texts need, in 10^9: each by itself, so that nothing is padded."""
    backend = load(REFERENCE, folder, usable_cores())
    with FlopCounterMode(display=False) as counted:
        for text in tokens:
            backend.forward([text])
    return counted.get_total_flops() / 1e9


def in_batches(tokens: Sequence[Tokens]) -> Batches:
    """Cut texts into batches as under load, when a few requests wait at a time."""
    parts = [tokens[start : start + QUEUE_SAMPLE] for start in range(0, len(tokens), QUEUE_SAMPLE)]
    return [
        [part[index] for index in batch] for part in parts for batch in plan_batches([*map(len, part)], BUDGET_TOKENS)
    ]


def padding(batches: Batches) -> float:
    """Give the share of what is computed that is padding."""
    masks = [padded(batch, 0)["mask"] for batch in batches]
    return 1 - sum(int(mask.sum()) for mask in masks) / sum(mask.size for mask in masks)


def table(
    rates: dict[str, float], useful: float, logits: dict[str, list[Logits]], folder: ModelFolder
) -> list[list[str]]:
    """Lay out speed and error; the reference is 1. `useful`: 10^9 operations a text."""
    rows, right = [["", "texts/s", "× float32 torch", HARDWARE, "error, p99", "same label"]], logits[str(REFERENCE)]
    for name, found in logits.items():
        rate = rates.get(name, 0.0)
        shares = rate / rates[str(REFERENCE)], f"{rate * useful / rates[PRODUCT]:.0%}"
        speed = [f"{rate:.1f}", f"{shares[0]:.2f}", shares[1]] if rate else ["", "", ""]
        same = np.mean(np.argmax(right, axis=1) == np.argmax(found, axis=1))
        rows.append([name, *speed, f"{score_error(right, found, folder):.2g}", f"{same:.1%}"])
    rows.append([PRODUCT, f"{rates[PRODUCT]:.0f} GFLOP/s", "", "100%", "", ""])
    return rows


if __name__ == "__main__":
    main()

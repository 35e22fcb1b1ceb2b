"""`make bench-engines`: throughput and error of each engine in one process without HTTP, and its hardware efficiency.

Besides the service's engines, it measures int8 as quantized by ONNX Runtime's own tool. Errors are against float32
torch. The hardware's limit is the throughput of a matrix product of the model's shape; the potential gain of sequence
packing is the share of padding.
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

HELD_OUT_TEXTS = 500
"""Texts for the errors, none of which the engines are selected by."""
ONNX_INT8 = "onnxruntime int8 (one scale per batch)"
PRODUCT, EFFICIENCY = "float32 matrix product alone", "share of matrix product speed"
Batches = list[list[Tokens]]


def main() -> None:
    """Run the benchmark, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--texts", type=int, default=256, help="texts per throughput measurement")
    args = parser.parse_args()
    folder = ModelFolder(resolve("embedded:sentiment"))
    backends = load_backends(folder)
    tokens = [text.tokens for text in folder.encode(texts(args.texts))]
    rates = throughputs(backends, tokens, args.rounds)
    gflop_per_text = gflops(folder, tokens) / len(tokens)
    held_out = split_into_batches([text.tokens for text in folder.encode(texts(HELD_OUT_TEXTS, seed=7))])
    logits = {name: forward_all(backend, held_out) for name, backend in backends.items()}
    rows = table(rates, gflop_per_text, logits, folder)
    padding = f"{padding_share(held_out):.0%} of tokens"
    rows.append([f"padding in batches of {QUEUE_SAMPLE} queued texts", padding, "", "", "", ""])
    write("engines", {"rows": rows[1:]}, markdown(rows))
    print(markdown(rows))


def load_backends(folder: ModelFolder) -> dict[str, Backend]:
    """Load every engine that this machine can run, the reference first."""
    backends: dict[str, Backend] = {}
    for engine in candidates(None, None):
        try:
            backends[str(engine)] = load(engine, folder, usable_cores())
        except ConfigError as problem:
            print(f"{engine}: {problem}", flush=True)
    return {**backends, ONNX_INT8: quantize_with_onnxruntime(folder)}


def quantize_with_onnxruntime(folder: ModelFolder) -> OnnxBackend:
    """Return an int8 backend of ONNX Runtime: weights quantized per channel, activations dynamically per batch.

    Weights have 7 bits on processors without VNNI, where 8 would overflow, as its documentation recommends.
    """
    with tempfile.TemporaryDirectory() as scratch:
        graph, small = Path(scratch) / "graph.onnx", Path(scratch) / "int8.onnx"
        trace(folder, graph)
        quantize_dynamic(graph, small, per_channel=True, reduce_range="avx512_vnni" not in machine()["instructions"])
        return OnnxBackend(folder, usable_cores(), small)


def throughputs(backends: dict[str, Backend], tokens: Sequence[Tokens], rounds: int) -> dict[str, float]:
    """Return texts per second by engine, the median of interleaved rounds; and GFLOP/s of the matrix product."""
    batches, seconds = split_into_batches(tokens), {name: list[float]() for name in [*backends, PRODUCT]}
    for backend in backends.values():
        forward_all(backend, batches)
    for _ in range(rounds):
        for name, backend in backends.items():
            started_s = time.monotonic()
            forward_all(backend, batches)
            seconds[name].append((time.monotonic() - started_s) / len(tokens))
        seconds[PRODUCT].append(seconds_per_gflop())
    return {name: 1 / median(samples) for name, samples in seconds.items()}


def seconds_per_gflop() -> float:
    """Return the seconds per 10^9 operations of a matrix product of the model's shape, (tokens, 384) × (384, 1536)."""
    with torch.inference_mode():
        left, right = torch.rand(BUDGET_TOKENS, 384), torch.rand(384, 1536)
        left @ right
        started_s = time.monotonic()
        for _ in range(50):
            left @ right
        return (time.monotonic() - started_s) / (50 * 2 * BUDGET_TOKENS * 384 * 1536 / 1e9)


def gflops(folder: ModelFolder, tokens: Sequence[Tokens]) -> float:
    """Return the floating-point operations of the texts in 10^9, each computed alone and so without padding."""
    backend = load(REFERENCE, folder, usable_cores())
    with FlopCounterMode(display=False) as counted:
        for text in tokens:
            backend.forward([text])
    return counted.get_total_flops() / 1e9


def split_into_batches(tokens: Sequence[Tokens]) -> Batches:
    """Plan batches as the service does under load, from `QUEUE_SAMPLE` queued texts at a time."""
    parts = [tokens[start : start + QUEUE_SAMPLE] for start in range(0, len(tokens), QUEUE_SAMPLE)]
    return [
        [part[index] for index in batch] for part in parts for batch in plan_batches([*map(len, part)], BUDGET_TOKENS)
    ]


def padding_share(batches: Batches) -> float:
    """Return the share of padding among all tokens."""
    masks = [padded(batch, 0)["mask"] for batch in batches]
    return 1 - sum(int(mask.sum()) for mask in masks) / sum(mask.size for mask in masks)


def table(
    rates: dict[str, float], gflop_per_text: float, logits: dict[str, list[Logits]], folder: ModelFolder
) -> list[list[str]]:
    """Return the table's rows: throughput, relative to the reference and to the hardware, and error."""
    rows = [["", "texts/s", "× float32 torch", EFFICIENCY, "error, p99", "same label"]]
    reference = logits[str(REFERENCE)]
    for name, outputs in logits.items():
        rate = rates.get(name, 0.0)
        shares = rate / rates[str(REFERENCE)], f"{rate * gflop_per_text / rates[PRODUCT]:.0%}"
        throughput = [f"{rate:.1f}", f"{shares[0]:.2f}", shares[1]] if rate else ["", "", ""]
        same = np.mean(np.argmax(reference, axis=1) == np.argmax(outputs, axis=1))
        rows.append([name, *throughput, f"{score_error(reference, outputs, folder):.2g}", f"{same:.1%}"])
    rows.append([PRODUCT, f"{rates[PRODUCT]:.0f} GFLOP/s", "", "100%", "", ""])
    return rows


if __name__ == "__main__":
    main()

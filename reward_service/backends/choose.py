"""`backend: auto`: measure the engines of this machine, and take the fastest whose scores are right.

Enters: a model's folder, the engines it may run on, a tolerance. Leaves: one engine, with its measured speed and error.
Scores of float32 torch on a fixed set of texts are the measure of all others. The choice is kept in the cache, by
model, machine and versions, so that a service scores with one engine however often it is started.
"""

import hashlib
import json
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from reward_service.backends.base import Backend, Logits, Tokens
from reward_service.backends.engines import REFERENCE, Engine, load, score_all
from reward_service.backends.model_folder import ModelFolder
from reward_service.errors import ConfigError
from reward_service.packing import batches_of
from shared.models.cache import build_once, cache_home
from shared.models.progress import say

FORMAT = 1  # of what is remembered
PROBES = resources.files("reward_service.backends").joinpath("probes.txt")
ROUNDS = 2
HOPELESS = 0.5
"""An engine below this share of the reference's speed on four long texts is measured no further."""
BUDGETS_TOKENS = (1024, 2048)
"""Batches that are tried: larger ones are no faster on a CPU, and make single texts wait."""


@dataclass(frozen=True, slots=True)
class Measured:
    """How an engine did on the fixed texts, in batches of the size that suits it best."""

    engine: Engine
    batch_tokens: int = BUDGETS_TOKENS[-1]
    texts_per_s: float | None = None
    """None where it was not measured, because there was no choice."""
    error: float | None = None
    """The 99th percentile of the distance from float32 torch: in probability, or as a share of a regressor's range."""


class Reading(Protocol):
    """What tells how logits are read."""

    multi_label: bool


def choose(folder: ModelFolder, engines: Sequence[Engine], tolerance: float, threads: int) -> Measured:
    """Give the engine to score with: measured now, or remembered."""
    target = cache_home() / "engines" / _key(folder, engines, tolerance, threads)

    def build(into: Path) -> None:
        found = measure(folder, engines, threads)
        say(told(folder.path.name, found))
        (into / "measured.json").write_text(json.dumps([asdict(each) for each in found], indent=1), encoding="utf-8")

    rows = json.loads((build_once(target, build) / "measured.json").read_text(encoding="utf-8"))
    return fastest([Measured(**{**row, "engine": Engine(**row["engine"])}) for row in rows], tolerance)


def fastest(measured: Sequence[Measured], tolerance: float) -> Measured:
    """Give the fastest of those within the tolerance. Raises `ConfigError` if there is none: NaN is never within."""
    right = [each for each in measured if each.error is not None and each.error <= tolerance]
    if not right:
        raise ConfigError(f"no engine is within {tolerance:g} of float32 torch: allow another, or raise the tolerance")
    return max(right, key=lambda each: each.texts_per_s or 0.0)


def told(model: str, measured: Sequence[Measured]) -> str:
    """Word the measurements in one line."""
    parts = [f"{each.engine}: {each.texts_per_s:.0f} texts/s, error {each.error:.2g}" for each in measured]
    return f"measured engines for {model}: {'; '.join(parts)}"


def measure(folder: ModelFolder, engines: Sequence[Engine], threads: int) -> list[Measured]:
    """Measure the engines in turns, the reference first, so that a noisy moment is shared."""
    tokens = [text.tokens for text in folder.encode(PROBES.read_text(encoding="utf-8").splitlines())]
    lengths = [*map(len, tokens)]
    cuts = {budget: [[tokens[i] for i in batch] for batch in batches_of(lengths, budget)] for budget in BUDGETS_TOKENS}
    backends, seconds, logits = (
        load_all(folder, engines, threads, sorted(tokens, key=len)[-4:]),
        dict[tuple[Engine, int], float](),
        {},
    )
    for _ in range(ROUNDS):
        for engine, backend in backends.items():
            for budget, batches in cuts.items():
                began_s = time.monotonic()
                logits[engine] = score_all(backend, batches)
                seconds[engine, budget] = min(seconds.get((engine, budget), 1e9), time.monotonic() - began_s)
    found = []
    for engine in (each for each in backends if each in engines):
        budget = min(BUDGETS_TOKENS, key=lambda budget: seconds[engine, budget])
        rate, distance = len(tokens) / seconds[engine, budget], error(logits[REFERENCE], logits[engine], folder)
        found.append(Measured(engine, budget, rate, distance))
    return found


def load_all(
    folder: ModelFolder, engines: Sequence[Engine], threads: int, few: Sequence[Tokens]
) -> dict[Engine, Backend]:
    """Load the reference and every engine that can run the model and is not hopelessly slow."""
    backends = {REFERENCE: load(REFERENCE, folder, threads)}
    pace = _pace(backends[REFERENCE], few)
    for engine in (each for each in engines if each != REFERENCE):
        try:
            backend = load(engine, folder, threads)
            if _pace(backend, few) <= pace / HOPELESS:
                backends[engine] = backend
        except Exception as problem:
            say(f"{engine} cannot run {folder.path.name}: {problem}")
    return backends


def _pace(backend: Backend, few: Sequence[Tokens]) -> float:
    backend.score(few)  # the first call of a shape compiles
    began_s = time.monotonic()
    backend.score(few)
    return time.monotonic() - began_s


def error(reference: Sequence[Logits], logits: Sequence[Logits], folder: Reading) -> float:
    """Give the 99th percentile of the distance of what is read from the logits: (texts, labels) both."""
    right, found = np.asarray(reference, dtype=float), np.asarray(logits, dtype=float)
    if right.shape[1] == 1:
        distance = np.abs(right - found)[:, 0] / max(float(np.ptp(right)), 1e-9)
    else:
        distance = np.abs(_probabilities(right, folder) - _probabilities(found, folder)).max(axis=1)
    return float(np.quantile(distance, 0.99))


def _probabilities(logits: NDArray[np.float64], folder: Reading) -> NDArray[np.float64]:
    if folder.multi_label:
        return 0.5 * (1.0 + np.tanh(0.5 * logits))
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _key(folder: ModelFolder, engines: Sequence[Engine], tolerance: float, threads: int) -> str:
    """Name all that a choice depends on."""
    probes, names = PROBES.read_text(encoding="utf-8"), [*map(str, engines)]
    made_with = [FORMAT, probes, folder.fingerprint, names, tolerance, threads, _processor(), _versions()]
    return hashlib.sha256(json.dumps(made_with).encode()).hexdigest()[:16]


def _processor() -> str:
    """Name the processor and what it can do; Linux tells more than the standard library knows."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return "\n".join(sorted({line for line in lines if line.startswith(("model", "flags", "Features"))})) or str(
        platform.uname()[4:]
    )


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in ("torch", "transformers", "openvino", "onnxruntime"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found

"""`backend: auto`: benchmark the engines of this machine, and select the fastest with the right scores.

In: a model's folder, the engines allowed, a tolerance. Out: one engine, with its measured speed and error. The scores
of float32 torch on a fixed set of texts are the reference. The selection is cached by model, machine and versions, so
that a service keeps one engine across restarts.
"""

import hashlib
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from reward_service.backends.benchmark import Measurement, gpu_batch_tokens, measure
from reward_service.backends.engines import ENGINES, Engine, on_gpu
from reward_service.backends.model_folder import ModelFolder
from reward_service.backends.probe import TEXTS
from reward_service.backends.probe_engine import probe_engine
from reward_service.errors import ConfigError
from shared.model_store.cache import build_once, cache_home
from shared.model_store.progress import log

FORMAT = 8
"""Version of the benchmark and of the files in the cache."""


def select_engine(folder: ModelFolder, engines: Sequence[Engine], max_score_error: float, threads: int) -> Measurement:
    """Return the fastest engine within the tolerance, from the cache or measured now. Raise `ConfigError`."""
    target = cache_home() / "engines" / _key(folder, engines, max_score_error, threads)
    measurements: list[Measurement] = []

    def build(into: Path) -> None:
        measurements.extend(measure(folder, engines, threads))
        log(summary(folder.path.name, measurements))
        content = json.dumps([asdict(measurement) for measurement in measurements], indent=1)
        (into / "measured.json").write_text(content, encoding="utf-8")

    try:
        measurements = load_measurements(build_once(target, build) / "measured.json")
    except OSError as error:  # a read-only cache, such as an image's: measured at each start
        log(f"cannot cache the measurement: {error}")
        measurements = measurements or measure(folder, engines, threads)
    return fastest(measurements, max_score_error)


def verified(folder: ModelFolder, engine: Engine, threads: int) -> Measurement:
    """Return the only engine allowed, after probing the model in it. Raise `ConfigError`.

    On a GPU its batch size is measured. A passed probe is cached, whatever the processor.
    """
    measurements: list[Measurement] = []

    def build(into: Path) -> None:
        measurements.append(_probe(folder, engine, threads))
        (into / "measured.json").write_text(json.dumps([asdict(measurements[0])]), encoding="utf-8")

    probes = TEXTS.read_text(encoding="utf-8")
    gpu = torch.cuda.is_available() and torch.cuda.get_device_name()
    name = f"verified-{_hash(FORMAT, probes, folder.fingerprint, str(engine), gpu, _versions())}"
    try:
        return load_measurements(build_once(cache_home() / "engines" / name, build) / "measured.json")[0]
    except OSError:  # a read-only cache: probed at each start
        return measurements[0] if measurements else _probe(folder, engine, threads)


def _probe(folder: ModelFolder, engine: Engine, threads: int) -> Measurement:
    try:
        verdict = probe_engine(folder, engine, threads)
    except ConfigError as error:
        raise ConfigError(f"{engine} cannot run {folder.path.name}: {error}") from error
    if not verdict.batched:
        log(
            f"{folder.path.name}: in a batch, {engine} gives a text other logits than alone (by up to "
            f"{verdict.difference:.2g}), so texts are computed one at a time"
        )
    if verdict.batched and on_gpu(engine):
        return Measurement(engine, gpu_batch_tokens(folder, engine, threads, batched=True))
    return Measurement(engine, batched=verdict.batched)


def load_measurements(path: Path) -> list[Measurement]:
    """Load cached measurements."""
    rows = json.loads(path.read_text(encoding="utf-8"))
    return [Measurement(**{**row, "engine": Engine(**row["engine"])}) for row in rows]


def fastest(measurements: Sequence[Measurement], max_score_error: float) -> Measurement:
    """Return the fastest engine within the tolerance, which NaN never is. Raise `ConfigError` if there is none."""
    accurate = [result for result in measurements if result.error is not None and result.error <= max_score_error]
    if not accurate:
        raise ConfigError(
            f"no engine is within {max_score_error:g} of float32 torch: allow another backend or dtype, or raise "
            f"max_score_error"
        )
    return max(accurate, key=lambda result: result.texts_per_s or 0.0)


def summary(model: str, measurements: Sequence[Measurement]) -> str:
    """Return the measurements in one line."""
    parts = [f"{result.engine}: {result.texts_per_s:.0f} texts/s, error {result.error:.2g}" for result in measurements]
    return f"benchmark of engines for {model}: {'; '.join(parts)}"


def _key(folder: ModelFolder, engines: Sequence[Engine], max_score_error: float, threads: int) -> str:
    """Return the cache key: a hash of all that a selection depends on."""
    probes, names = TEXTS.read_text(encoding="utf-8"), [*map(str, engines)]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    return _hash(FORMAT, probes, folder.fingerprint, names, max_score_error, threads, device, _versions())


def _hash(*values: Any) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]


def _processor() -> str:
    """Return the processor's model and instruction sets, which on Linux the standard library does not know."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return "\n".join(sorted({line for line in lines if line.startswith(("model", "flags", "Features"))})) or str(
        platform.uname()[4:]
    )


def _versions() -> dict[str, str | None]:
    """Return the installed version of each package that computes: an upgrade makes old measurements invalid."""
    versions: dict[str, str | None] = {}
    for name in sorted({"transformers", *(engine.backend for engine in ENGINES)}):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return versions

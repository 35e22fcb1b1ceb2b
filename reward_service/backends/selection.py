"""`backend: auto`: measure the engines of this machine, and take the fastest whose scores are right.

Enters: a model's folder, the engines it may run on, a tolerance. Leaves: one engine, with its measured speed and error.
Scores of float32 torch on a fixed set of texts are the measure of all others. The choice is kept in the cache, by
model, machine and versions, so that a service scores with one engine however often it is started.
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

from reward_service.backends.benchmark import PROBES, Measurement, check_equivalent, measure
from reward_service.backends.engines import ENGINES, REFERENCE, Engine, load
from reward_service.backends.model_folder import ModelFolder
from reward_service.errors import ConfigError
from shared.model_store.cache import build_once, cache_home
from shared.model_store.progress import log

FORMAT = 7  # of how it is measured, and of what is remembered


def select_engine(folder: ModelFolder, engines: Sequence[Engine], max_score_error: float, threads: int) -> Measurement:
    """Give the engine to score with: measured now, or remembered."""
    target = cache_home() / "engines" / _key(folder, engines, max_score_error, threads)
    found: list[Measurement] = []

    def build(into: Path) -> None:
        found.extend(measure(folder, engines, threads))
        log(summary(folder.path.name, found))
        (into / "measured.json").write_text(json.dumps([asdict(each) for each in found], indent=1), encoding="utf-8")

    try:
        found = load_measurements(build_once(target, build) / "measured.json")
    except OSError as error:  # a cache that cannot be written, such as an image's: measured anew at each start
        log(f"cannot keep the measurement: {error}")
        found = found or measure(folder, engines, threads)
    return fastest(found, max_score_error)


def verified(folder: ModelFolder, engine: Engine, threads: int) -> Measurement:
    """Take the only engine there is to choose from, once it was seen to compute the same model as the reference.

    Raises `ConfigError` where it does not. That it does is remembered, of any machine.
    """
    if engine.backend == REFERENCE.backend:  # no graph was traced
        return Measurement(engine)

    def build(into: Path) -> None:
        _compare(folder, engine, threads)
        (into / "held.txt").write_text(f"{engine}\n", encoding="utf-8")

    name = f"held-{_hash(FORMAT, folder.fingerprint, str(engine), _versions())}"
    try:
        build_once(cache_home() / "engines" / name, build)
    except OSError:  # a cache that cannot be written
        _compare(folder, engine, threads)
    return Measurement(engine)


def _compare(folder: ModelFolder, engine: Engine, threads: int) -> None:
    try:
        check_equivalent(load(REFERENCE, folder, threads), load(engine, folder, threads), folder)
    except ConfigError as error:
        raise ConfigError(f"{engine} cannot run {folder.path.name}: {error}; take another engine") from error


def load_measurements(path: Path) -> list[Measurement]:
    """Read what was measured."""
    rows = json.loads(path.read_text(encoding="utf-8"))
    return [Measurement(**{**row, "engine": Engine(**row["engine"])}) for row in rows]


def fastest(measured: Sequence[Measurement], max_score_error: float) -> Measurement:
    """Give the fastest of those within the tolerance. Raises `ConfigError` if there is none: NaN is never within."""
    right = [each for each in measured if each.error is not None and each.error <= max_score_error]
    if not right:
        raise ConfigError(
            f"no engine is within {max_score_error:g} of float32 torch: allow another, or raise the tolerance"
        )
    return max(right, key=lambda each: each.texts_per_s or 0.0)


def summary(model: str, measured: Sequence[Measurement]) -> str:
    """Word the measurements in one line."""
    parts = [f"{each.engine}: {each.texts_per_s:.0f} texts/s, error {each.error:.2g}" for each in measured]
    return f"measured engines for {model}: {'; '.join(parts)}"


def _key(folder: ModelFolder, engines: Sequence[Engine], max_score_error: float, threads: int) -> str:
    """Name all that a choice depends on."""
    probes, names = PROBES.read_text(encoding="utf-8"), [*map(str, engines)]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    return _hash(FORMAT, probes, folder.fingerprint, names, max_score_error, threads, device, _versions())


def _hash(*made_with: Any) -> str:
    return hashlib.sha256(json.dumps(made_with).encode()).hexdigest()[:16]


def _processor() -> str:
    """Name the processor and what it can do; Linux tells more than the standard library knows."""
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

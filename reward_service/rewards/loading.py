"""Turn a model's configuration into a reward that scores. Slow and heavy: imported where a model is really loaded."""

from collections.abc import Callable
from functools import partial

from reward_service.admission import Bounds
from reward_service.backends import engines
from reward_service.backends.choose import choose, held
from reward_service.backends.measure import Measured
from reward_service.backends.model_folder import ModelFolder
from reward_service.batching import BatchDone, Batcher
from reward_service.cache import CacheUse, LogitsCache
from reward_service.config import ClassifierSpec, RegressorSpec
from reward_service.device import Device
from reward_service.errors import ConfigError, raising
from reward_service.rewards.model import ModelReward
from reward_service.settings import Settings
from shared.models.errors import ModelError
from shared.models.store import resolve
from shared.schemas import EngineInfo

ModelSpec = ClassifierSpec | RegressorSpec
Observe = Callable[[str, BatchDone | CacheUse], None]


def model_reward(name: str, spec: ModelSpec, settings: Settings, device: Device, observe: Observe) -> ModelReward:
    """Load a model into the engine it is to be computed with. Raises `ConfigError`."""
    with raising(ConfigError, f"rewards.{name}: {spec.model}"):
        folder = open_model(name, spec)
        found = engine_of(spec, folder, settings)
        backend = engines.load(found.engine, folder, settings.cores())
        folder.refuse_changed()
    told = partial(observe, name)
    batch_tokens = spec.batch_tokens or found.batch_tokens
    bounds = Bounds(
        batch_tokens,
        max_items=1 if settings.deterministic else 256,
        padding_cost=backend.padding_cost,
        queue_texts=settings.queue_texts,
        queue_tokens=settings.queue_tokens,
        stalled_after_s=settings.stalled_after_s,
    )
    batcher = Batcher(backend, device, bounds, LogitsCache(settings.cache_bound()), told)
    return ModelReward(name, spec, folder, batcher, info_of(found, settings), backend.numerics)


def open_model(name: str, spec: ModelSpec) -> ModelFolder:
    """Find a model's folder, preparing it if need be, and read all but its weights. Raises `ConfigError`."""
    try:
        # a chat template writes the special tokens itself
        return ModelFolder(resolve(spec.model), max_tokens=spec.max_tokens, special_tokens=spec.input != "chat")
    except ModelError as error:
        raise ConfigError(f"rewards.{name}: {error}") from error


def engine_of(spec: ModelSpec, folder: ModelFolder, settings: Settings) -> Measured:
    """Give the engine that the configuration names, or the fastest of those it allows. Raises `ConfigError`."""
    allowed = engines.candidates(spec.backend or settings.backend, spec.dtype or settings.dtype)
    if len(allowed) == 1:
        return held(folder, allowed[0], settings.cores())
    return choose(folder, allowed, settings.tolerance, settings.cores())


def info_of(found: Measured, settings: Settings) -> EngineInfo:
    """Tell callers what computes."""
    return EngineInfo(
        backend=found.engine.backend,
        dtype=found.engine.dtype,
        deterministic=settings.deterministic,
        texts_per_s=found.texts_per_s,
        error=found.error,
    )

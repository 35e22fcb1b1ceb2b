"""Turn a model's configuration into a reward that scores. Slow and heavy: imported where a model is really loaded."""

from collections.abc import Callable
from functools import partial

from reward_service.backends import engines
from reward_service.backends.benchmark import Measurement
from reward_service.backends.model_folder import ModelFolder
from reward_service.backends.selection import select_engine, verified
from reward_service.batching.admission import QueueLimits
from reward_service.batching.batcher import BatchDone, Batcher
from reward_service.batching.cache import CacheLookup, LogitsCache
from reward_service.batching.device import Device
from reward_service.config import ClassifierSpec, RegressorSpec
from reward_service.errors import ConfigError, translating
from reward_service.rewards.model import ModelReward
from reward_service.settings import Settings
from shared.model_store.errors import ModelError
from shared.model_store.store import resolve
from shared.schemas import EngineInfo

ModelSpec = ClassifierSpec | RegressorSpec
BatchObserver = Callable[[str, BatchDone | CacheLookup], None]


def model_reward(name: str, spec: ModelSpec, settings: Settings, device: Device, observe: BatchObserver) -> ModelReward:
    """Load a model into the engine it is to be computed with. Raises `ConfigError`."""
    with translating(ConfigError, f"rewards.{name}: {spec.model}"):
        folder = open_model(name, spec)
        found = engine_of(spec, folder, settings)
        backend = engines.load(found.engine, folder, settings.cores())
        folder.check_unchanged()
    told = partial(observe, name)
    max_batch_tokens = spec.max_batch_tokens or found.max_batch_tokens
    limits = QueueLimits(
        max_batch_tokens,
        max_items=1 if settings.deterministic else 256,
        padding_cost=backend.padding_cost,
        max_queue_texts=settings.max_queue_texts,
        max_queue_tokens=settings.max_queue_tokens,
        batch_timeout_s=settings.batch_timeout_s,
    )
    batcher = Batcher(backend, device, limits, LogitsCache(settings.cache_bound()), told)
    return ModelReward(name, spec, folder, batcher, info_of(found, settings), backend.numeric_settings)


def open_model(name: str, spec: ModelSpec) -> ModelFolder:
    """Find a model's folder, preparing it if need be, and read all but its weights. Raises `ConfigError`."""
    try:
        # a chat template writes the special tokens itself
        return ModelFolder(resolve(spec.model), max_tokens=spec.max_tokens, special_tokens=spec.input != "chat")
    except ModelError as error:
        raise ConfigError(f"rewards.{name}: {error}") from error


def engine_of(spec: ModelSpec, folder: ModelFolder, settings: Settings) -> Measurement:
    """Give the engine that the configuration names, or the fastest of those it allows. Raises `ConfigError`."""
    allowed = engines.candidates(spec.backend or settings.backend, spec.dtype or settings.dtype)
    if len(allowed) == 1:
        return verified(folder, allowed[0], settings.cores())
    return select_engine(folder, allowed, settings.max_score_error, settings.cores())


def info_of(found: Measurement, settings: Settings) -> EngineInfo:
    """Tell callers what computes."""
    return EngineInfo(
        backend=found.engine.backend,
        dtype=found.engine.dtype,
        deterministic=settings.deterministic,
        texts_per_s=found.texts_per_s,
        error=found.error,
    )

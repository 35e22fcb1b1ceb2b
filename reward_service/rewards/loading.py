"""Load a model reward: folder, engine, batcher. Heavy: imported only where a model is loaded."""

from functools import partial

from reward_service.backends import engines
from reward_service.backends.benchmark import Measurement
from reward_service.backends.model_folder import ModelFolder
from reward_service.backends.selection import select_engine, verified
from reward_service.batching.admission import QueueLimits
from reward_service.batching.batcher import Batcher, BatchObserver
from reward_service.batching.cache import LogitsCache, max_entries
from reward_service.batching.device import Device
from reward_service.errors import ConfigError, translating
from reward_service.rewards.model import ModelReward
from reward_service.rewards.reading import reads_prompt
from reward_service.rewards.similarity import SimilarityReward
from reward_service.rewards.values import ModelSpec
from reward_service.settings import Settings
from reward_service.specs import SimilaritySpec, TextModelSpec
from shared.model_store import ModelError, adapters, resolve
from shared.schemas import EngineInfo

AnyModelSpec = ModelSpec | SimilaritySpec


def model_reward(
    name: str, spec: AnyModelSpec, settings: Settings, device: Device, observe: BatchObserver
) -> ModelReward | SimilarityReward:
    """Load a model into the engine selected for it. Raise `ConfigError`."""
    with translating(ConfigError, f"rewards.{name}: {spec.model}"):
        folder = open_model(name, spec)
        measurement = engine_for(spec, folder, settings)
        backend = engines.load(measurement.engine, folder, settings.cores())
        folder.check_unchanged()
    limits = QueueLimits(
        budget_tokens=spec.max_batch_tokens or measurement.max_batch_tokens,
        max_items=1 if settings.deterministic or not measurement.batched else 256,
        padding_cost=backend.padding_cost,
        max_queue_texts=settings.max_queue_texts,
        max_queue_tokens=settings.max_queue_tokens,
        batch_timeout_s=settings.batch_timeout_s,
    )
    cache = LogitsCache(max_entries(settings.cache_bound(), folder.outputs))
    batcher = Batcher(backend, device, limits, cache, partial(observe, name))
    engine = engine_info(measurement, settings)
    if isinstance(spec, SimilaritySpec):
        return SimilarityReward(name, spec, folder, batcher, engine, backend.numeric_settings)
    return ModelReward(name, spec, folder, batcher, engine, backend.numeric_settings)


def open_model(name: str, spec: AnyModelSpec) -> ModelFolder:
    """Open a model's folder, preparing it if needed, and read all but its weights. Raise `ConfigError`."""
    try:
        path = resolve(spec.model)
        if adapters.is_adapter(path):
            path = adapters.merged(path, resolve)
    except ModelError as error:
        raise ConfigError(f"rewards.{name}: {error}") from error
    if isinstance(spec, SimilaritySpec):
        return ModelFolder(path, max_tokens=spec.max_tokens, truncate=spec.truncate, embed=True, pooling=spec.pooling)
    return ModelFolder(
        path,
        max_tokens=spec.max_tokens,
        special_tokens=spec.input in ("completion", "pair"),
        pairs=spec.input == "pair",
        truncate=spec.truncate or ("prompt" if reads_prompt(spec) else None),
        system=spec.system,
        template_args=spec.template_args,
    )


def engine_for(spec: TextModelSpec, folder: ModelFolder, settings: Settings) -> Measurement:
    """Return the configured engine, or the fastest of those that the configuration allows. Raise `ConfigError`."""
    allowed = engines.candidates(spec.backend or settings.backend, spec.dtype or settings.dtype)
    if len(allowed) == 1:
        return verified(folder, allowed[0], settings.cores())
    return select_engine(folder, allowed, settings.max_score_error, settings.cores())


def engine_info(measurement: Measurement, settings: Settings) -> EngineInfo:
    """Return what `GET /v1/rewards` says of the engine."""
    return EngineInfo(
        backend=measurement.engine.backend,
        dtype=measurement.engine.dtype,
        deterministic=settings.deterministic,
        batched=measurement.batched and not settings.deterministic,
        texts_per_s=measurement.texts_per_s,
        error=measurement.error,
    )

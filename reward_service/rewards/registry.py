"""Build the configured rewards. The one place that knows every kind; heavy imports happen only where needed."""

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import assert_never

from reward_service.batching import BatchDone, Batcher, Bounds
from reward_service.cache import CacheUse, ReadingCache
from reward_service.config import (
    ClassifierSpec,
    CompositeSpec,
    FunctionSpec,
    RegressorSpec,
    RewardsConfig,
    RuleSpec,
    Spec,
    in_order,
)
from reward_service.errors import ConfigError, raising
from reward_service.rewards.base import Reward
from reward_service.rewards.composite import CompositeReward
from reward_service.rewards.function import FunctionReward
from reward_service.rewards.model import ModelReward
from reward_service.rewards.rule import RuleReward


@dataclass(frozen=True, slots=True)
class Serving:
    """What all models share: the thread that computes, bounds, and who is told."""

    device: Executor
    queue_texts: int
    cache_texts: int
    observe: Callable[[str, BatchDone | CacheUse], None]


def build(config: RewardsConfig, serving: Serving) -> dict[str, Reward]:
    """Build every reward, parts before sums. Slow: models are fetched, prepared and loaded. Raises `ConfigError`."""
    rewards: dict[str, Reward] = {}
    for name in in_order(config):
        rewards[name] = _build_one(name, config.rewards[name], rewards, serving)
    return {name: rewards[name] for name in config.rewards}


def _build_one(name: str, spec: Spec, rewards: dict[str, Reward], serving: Serving) -> Reward:
    match spec:
        case RuleSpec():
            return RuleReward(name, spec)
        case ClassifierSpec() | RegressorSpec():
            return _model(name, spec, serving)
        case CompositeSpec():
            return CompositeReward(name, spec, rewards)
        case FunctionSpec():
            return FunctionReward(name, spec)
        case _:
            assert_never(spec)


def _model(name: str, spec: ClassifierSpec | RegressorSpec, serving: Serving) -> ModelReward:
    with raising(ConfigError, f"rewards.{name}: {spec.model}"):
        from reward_service.backends.pytorch import TorchBackend

        backend = TorchBackend(folder_of(name, spec.model), dtype=spec.dtype, max_tokens=spec.max_tokens)
    bounds = Bounds(budget_tokens=spec.batch_tokens, queue_texts=serving.queue_texts)
    observe = partial(serving.observe, name)
    batcher = Batcher(backend, serving.device, bounds, observe)
    return ModelReward(name, spec, backend, batcher, ReadingCache(serving.cache_texts), observe)


def folder_of(name: str, model: str) -> Path:
    """Turn a model's name into a folder. Raises `ConfigError`."""
    from shared.models.errors import ModelError
    from shared.models.store import resolve

    try:
        return resolve(model)
    except ModelError as error:
        raise ConfigError(f"rewards.{name}: {error}") from error

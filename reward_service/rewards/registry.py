"""Build the configured rewards. The one place that knows every kind; heavy imports happen only where needed."""

from typing import assert_never

from reward_service.batching.batcher import BatchObserver
from reward_service.batching.device import Device
from reward_service.config import RewardsConfig, build_order
from reward_service.errors import naming
from reward_service.rewards.base import Reward
from reward_service.rewards.composite import CompositeReward
from reward_service.rewards.function import FunctionReward
from reward_service.rewards.math_reward import MathReward
from reward_service.rewards.rule import RuleReward
from reward_service.settings import Settings
from reward_service.specs import (
    ClassifierSpec,
    CompositeSpec,
    FunctionSpec,
    MathSpec,
    RegressorSpec,
    RuleSpec,
    SimilaritySpec,
    Spec,
)


def build(config: RewardsConfig, settings: Settings, device: Device, observe: BatchObserver) -> dict[str, Reward]:
    """Build every reward, parts before sums. Raise `ConfigError`. Slow: models are fetched, prepared and loaded.

    `device` runs all models, one batch at a time. `observe` is called with each reward's batch events.
    """
    rewards: dict[str, Reward] = {}

    def build_one(name: str, spec: Spec) -> Reward:
        match spec:
            case RuleSpec():
                return RuleReward(name, spec)
            case ClassifierSpec() | RegressorSpec() | SimilaritySpec():
                from reward_service.rewards.loading import model_reward

                return model_reward(name, spec, settings, device, observe)
            case MathSpec():
                return MathReward(name, spec)
            case CompositeSpec():
                return CompositeReward(name, spec, rewards)
            case FunctionSpec():
                return FunctionReward(name, spec)
            case _:
                assert_never(spec)

    for name in build_order(config):
        with naming(name):
            rewards[name] = build_one(name, config.rewards[name])
    return {name: rewards[name] for name in config.rewards}

"""The life of the service's rewards: loading, ready, draining. Models load beside the event loop, once."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from reward_service.config import read_config
from reward_service.errors import ConfigError, Draining, NotReady, RewardServiceError
from reward_service.metrics import Metrics
from reward_service.rewards.base import Reward, refuse_non_finite
from reward_service.rewards.registry import build
from reward_service.scorer import Scorer, items_of
from reward_service.settings import Settings
from shared.schemas import ScoreRequest

log = logging.getLogger("reward_service")
CANARY = "The quick brown fox jumps over the lazy dog."


class Lifecycle:
    """Owns the rewards, the thread that computes and the state that readiness tells."""

    def __init__(self, settings: Settings, metrics: Metrics, rewards: Mapping[str, Reward] | None = None) -> None:
        self.settings, self.metrics = settings, metrics
        self.failure: RewardServiceError | None = None
        self.draining = False
        self.on_failure: Callable[[], None] = lambda: None
        self._given = rewards
        self._scorer: Scorer | None = None
        self._device = ThreadPoolExecutor(1, thread_name_prefix="device")
        self._loading: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        """Tell whether every reward is loaded and has scored its canary."""
        return self._scorer is not None and not self.draining

    def scorer(self) -> Scorer:
        """Give the scorer, or raise `NotReady` while there is none to be used."""
        if self._scorer is None:
            raise NotReady("the models are being loaded; ask again in a moment")
        if self.draining:
            raise Draining
        return self._scorer

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Load while it runs, and at the end answer whatever still waits."""
        self._loading = asyncio.create_task(self._load(), name="load")
        try:
            yield
        finally:
            self.draining = True
            self._loading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._loading
            for reward in (self._scorer.rewards if self._scorer else {}).values():
                await reward.stop()
            self._device.shutdown(wait=False, cancel_futures=True)

    async def loaded(self) -> None:
        """Wait until loading has ended, well or not."""
        if self._loading is not None:
            await asyncio.wait([self._loading])

    async def _load(self) -> None:
        started_s = time.monotonic()
        try:
            scorer = await self._build()
            for reward in scorer.rewards.values():
                await reward.start()
            await self._canary(scorer)
        except Exception as error:  # whatever a model or somebody's code raises, the service says so and ends
            told = ConfigError(f"cannot load the rewards: {type(error).__name__}: {error}")
            self.failure = error if isinstance(error, RewardServiceError) else told
            log.debug("cannot load", exc_info=error)
            self.on_failure()
            return
        infos = [reward.info for reward in scorer.rewards.values()]
        self.metrics.loaded(infos, lambda: float(depth(scorer.rewards)))
        self._scorer = scorer
        log.info("ready after %.1f s: %s", time.monotonic() - started_s, ", ".join(scorer.rewards))

    async def _build(self) -> Scorer:
        if self._given is not None:
            return Scorer(self._given, [next(iter(self._given))])
        config = read_config(self.settings.config)
        rewards = await asyncio.to_thread(build, config, self.settings, self._device, self.metrics.observe)
        return Scorer(rewards, config.chosen())

    async def _canary(self, scorer: Scorer) -> None:
        """Score one text with every reward: a model that cannot is found before the first caller."""
        items = items_of(ScoreRequest(completions=[CANARY], prompts=[CANARY]))
        for name, reward in scorer.rewards.items():
            if calls_function(name, scorer.rewards):
                continue  # somebody's function may need columns that a canary does not have
            result = await reward.score(items)
            refuse_non_finite(result)
            if result.scores[0] is None:
                raise ConfigError(f"rewards.{name} cannot score a simple sentence: {result.errors[0].message}")


def calls_function(name: str, rewards: Mapping[str, Reward]) -> bool:
    """Tell whether a reward is somebody's function, or made of one."""
    info = rewards[name].info
    return info.kind == "function" or any(calls_function(part, rewards) for part in info.parts)


def depth(rewards: Mapping[str, Reward]) -> int:
    """Give how many texts wait before all models together."""
    return sum(getattr(reward, "depth", 0) for reward in rewards.values())

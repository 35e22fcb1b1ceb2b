"""The life of the service's rewards: loading, ready, reloaded, draining. Models load beside the event loop."""

import asyncio
import contextlib
import gc
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from functools import partial
from typing import Any

from reward_service.batching.device import Device
from reward_service.config import read_config
from reward_service.errors import ConfigError, Draining, NotReady, RewardServiceError, Stalled
from reward_service.metrics import Metrics
from reward_service.process import low_priority_executor
from reward_service.rewards.base import Reward, null_non_finite
from reward_service.rewards.registry import build
from reward_service.scorer import Scorer, to_items
from reward_service.settings import Settings
from shared.schemas import ScoreRequest

log = logging.getLogger("reward_service")
CANARY = "The quick brown fox jumps over the lazy dog."


class Lifecycle:
    """Owns the rewards, the thread that computes and the state that readiness tells."""

    def __init__(self, settings: Settings, metrics: Metrics, rewards: Mapping[str, Reward] | None = None) -> None:
        self.settings, self.metrics = settings, metrics
        self.keys = settings.keys()
        self.failure: RewardServiceError | None = None
        self.draining = False
        self.on_failure: Callable[[], None] = lambda: None
        self.on_ready: Callable[[], None] = lambda: None
        self.on_retired: Callable[[], object] = gc.collect
        """What frees the memory of rewards that are served no more: a model's modules hold each other."""
        self._given = rewards
        self._scorer: Scorer | None = None
        self._device = Device(low_priority_executor("device"))
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loading: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()  # one load at a time
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def ready(self) -> bool:
        """Tell whether every reward is loaded, has scored its canary, and goes on scoring."""
        return self._scorer is not None and not self.draining and self._scorer.healthy

    def check_ready(self) -> None:
        """Raise what keeps the service from scoring."""
        if not self.scorer().healthy:
            raise Stalled("a model does not compute, or does not end; if this lasts, start the service again")

    def scorer(self) -> Scorer:
        """Give what scores from now on, or raise `NotReady` while there is nothing to be used."""
        if self._scorer is None:
            raise NotReady("the models are being loaded; ask again in a moment")
        if self.draining:
            raise Draining
        return self._scorer

    def check_deadline(self, deadline_s: float) -> None:
        """Raise `Overloaded` where whatever is asked would be late. While it drains, it says that instead."""
        if self._scorer is not None and not self.draining:
            self._scorer.check_deadline(deadline_s)

    @contextlib.contextmanager
    def drain_on_cancel(self) -> Iterator[None]:
        """Answer whoever is cut off because the time of grace has passed."""
        try:
            yield
        except asyncio.CancelledError:
            if self.draining:
                raise Draining from None
            raise

    @contextlib.contextmanager
    def acquire_scorer(self) -> Iterator[Scorer]:
        """Lend what scores: it stays until it is given back, whatever is loaded meanwhile."""
        with self.scorer().in_use() as scorer:
            yield scorer

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Load while it runs, and at the end answer whatever still waits."""
        self._loop = asyncio.get_running_loop()
        self._loading = asyncio.create_task(self._begin(), name="load")
        try:
            yield
        finally:
            self.draining = True
            for task in (self._loading, *self._tasks):
                task.cancel()
            await asyncio.gather(self._loading, *self._tasks, return_exceptions=True)
            if self._scorer is not None:
                await self._scorer.stop()
            self._device.executor.shutdown(wait=False, cancel_futures=True)

    async def _begin(self) -> None:
        started_s = time.monotonic()
        try:
            async with self._turn:
                self._cut_over(await self._open())
        except Exception as error:  # whatever a model or somebody's code raises, the service says so and ends
            self.failure = _told(error)
            log.debug("cannot load", exc_info=error)
            self.on_failure()
            return
        self.on_ready()
        log.info("ready after %.1f s: %s", time.monotonic() - started_s, ", ".join(self.scorer().rewards))

    async def reload(self) -> Scorer:
        """Read the configuration and the keys anew, load beside what serves, and cut over between two requests.

        Raises a `ConfigError` where that cannot be done; what served goes on serving.
        """
        if self._given is not None:
            raise ConfigError("these rewards come from a program: there is no configuration to read again")
        async with self._turn:
            started_s = time.monotonic()
            try:
                keys, fresh = self.settings.keys(), await self._open()
            except Exception as error:
                log.warning("not reloaded, the rewards stay as they are: %s", _told(error))
                raise _told(error) from error
            self.keys = keys
            old = self._cut_over(fresh)
            log.info("reloaded after %.1f s: %s", time.monotonic() - started_s, ", ".join(fresh.rewards))
        if old is not None:
            self._spawn(_retire(old, self.on_retired))
        return fresh

    def reload_soon(self) -> None:
        """Reload as soon as the event loop comes to it. May be called from a signal's handler."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(lambda: self._spawn(self._reload_logged()))

    async def _reload_logged(self) -> None:
        with contextlib.suppress(RewardServiceError):  # it is in the log
            await self.reload()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _open(self) -> Scorer:
        """Build rewards, start them and have each score a canary: whoever asks first finds them able to."""
        scorer = await self._build()
        try:
            async with asyncio.timeout(self.settings.batch_timeout_s):
                for reward in scorer.rewards.values():
                    await reward.start()
                await _canary(scorer)
        except BaseException as error:
            await scorer.stop()
            if isinstance(error, TimeoutError):
                raise ConfigError(
                    f"no score within {self.settings.batch_timeout_s:g} s: the device does not end"
                ) from None
            raise
        return scorer

    async def _build(self) -> Scorer:
        if self._given is not None:
            return Scorer(self._given, [next(iter(self._given))])
        config = read_config(self.settings.config)
        work = partial(build, config, self.settings, self._device, self.metrics.observe)
        loading = low_priority_executor("loading")  # the threads of an engine are those of its maker
        try:
            rewards = await asyncio.get_running_loop().run_in_executor(loading, work)
        finally:
            loading.shutdown(wait=False)  # who stops the service does not wait until it is loaded
        return Scorer(rewards, config.default_rewards())

    def _cut_over(self, fresh: Scorer) -> Scorer | None:
        old, self._scorer = self._scorer, fresh
        self.metrics.loaded([reward.info for reward in fresh.rewards.values()], lambda: float(fresh.depth))
        return old


async def _retire(scorer: Scorer, on_retired: Callable[[], object]) -> None:
    """End rewards that nobody asks any more, once the last request that has them is answered."""
    try:
        await scorer.wait_idle()
    finally:
        await scorer.stop()
        del scorer  # the last to hold them
        on_retired()


def _told(error: Exception) -> RewardServiceError:
    if isinstance(error, RewardServiceError):
        return error
    return ConfigError(f"cannot load the rewards: {type(error).__name__}: {error}")


async def _canary(scorer: Scorer) -> None:
    """Score one text with every reward: a model that cannot is found before the first caller."""
    items = to_items(ScoreRequest(completions=[CANARY], prompts=[CANARY]))
    for name, reward in scorer.rewards.items():
        if not reward.accepts_canary:
            continue  # somebody's function may need columns that a canary does not have
        result = await reward.score(items)
        null_non_finite(result)
        if result.scores[0] is None:
            raise ConfigError(f"rewards.{name} cannot score a simple sentence: {result.errors[0].message}")

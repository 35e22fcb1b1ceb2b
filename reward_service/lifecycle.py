"""Load, reload and drain the service's rewards. Models load on a thread beside the event loop."""

import asyncio
import contextlib
import gc
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from reward_service.batching.device import Device
from reward_service.config import DialectOptions, check_dialects, read_config
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
    """Owns the scorer, the compute thread and the readiness state.

    `rewards` replaces the configured rewards; they cannot be reloaded. `dialects` are the names of all wire formats.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        rewards: Mapping[str, Reward] | None = None,
        dialects: Sequence[str] = (),
    ) -> None:
        self.api_keys = settings.load_api_keys()
        """API keys valid now; replaced at each reload."""
        self.failure: RewardServiceError | None = None
        """Why the first load failed."""
        self.dialects: Mapping[str, DialectOptions] = dict.fromkeys(dialects, DialectOptions())
        """Options of the wire formats to serve, all by default; replaced at each reload."""
        self.draining = False
        self.on_failure: Callable[[], None] = lambda: None
        self.on_ready: Callable[[], None] = lambda: None
        self.on_retired: Callable[[], object] = gc.collect
        """Frees the memory of rewards that a reload replaced: a model's modules are reference cycles."""
        self._settings, self._metrics, self._static_rewards = settings, metrics, rewards
        self._all_dialects = self.dialects
        self._scorer: Scorer | None = None
        self._device = Device(low_priority_executor("device"))
        self._loop: asyncio.AbstractEventLoop | None = None
        self._load_lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._first_load: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        """Whether every reward is loaded, has scored the canary and is healthy, and the service is not draining."""
        return self._scorer is not None and not self.draining and self._scorer.healthy

    def check_ready(self) -> None:
        """Raise a `NotReady` error if the service cannot score now."""
        if not self.scorer().healthy:
            raise Stalled("a model does not compute or does not finish a batch; if this lasts, restart the service")

    def scorer(self) -> Scorer:
        """Return the current scorer. Raise `NotReady` while loading and `Draining` while draining."""
        if self._scorer is None:
            raise NotReady("the models are loading; retry in a moment")
        if self.draining:
            raise Draining
        return self._scorer

    @property
    def loading(self) -> bool:
        """Whether the first load has not ended."""
        return self._scorer is None

    def check_deadline(self, deadline_s: float) -> None:
        """Raise `Overloaded` if no reward could meet the deadline. Does nothing while loading or draining."""
        if self._scorer is not None and not self.draining:
            self._scorer.check_deadline(deadline_s)

    def check_pins(self, pins: Mapping[str, str]) -> None:
        """Raise `OtherRevision` if a request is pinned to another revision. Does nothing while loading or draining."""
        if self._scorer is not None and not self.draining:
            self._scorer.check_pins(pins)

    @contextlib.contextmanager
    def drain_on_cancel(self) -> Iterator[None]:
        """Raise `Draining` in place of a cancellation while draining: `shutdown_timeout_s` has passed."""
        try:
            yield
        except asyncio.CancelledError:
            if self.draining:
                raise Draining from None
            raise

    @contextlib.contextmanager
    def acquire_scorer(self) -> Iterator[Scorer]:
        """Lease the current scorer: a reload does not stop it before the lease ends."""
        with self.scorer().in_use() as scorer:
            yield scorer

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Start loading on entry; on exit, drain and answer every queued request."""
        self._loop = asyncio.get_running_loop()
        self._first_load = self._spawn(self._load_initial())
        try:
            yield
        finally:
            self.draining = True
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._scorer is not None:
                await self._scorer.stop()
            self._device.executor.shutdown(wait=False, cancel_futures=True)

    async def loaded(self) -> Scorer:
        """Wait for the end of the first load. Return the scorer, or raise the error that the load ended with."""
        if self._first_load is not None:
            await asyncio.wait([self._first_load])
        if self.failure is not None:
            raise self.failure
        return self.scorer()

    async def _load_initial(self) -> None:
        started_s = time.monotonic()
        try:
            async with self._load_lock:
                self._swap(*await self._load())
        except Exception as error:  # a model or a user's function may raise anything; the process exits with it
            self.failure = _as_config_error(error)
            log.debug("cannot load the rewards", exc_info=error)
            self.on_failure()
            return
        self.on_ready()
        log.info("ready after %.1f s: %s", time.monotonic() - started_s, ", ".join(self.scorer().rewards))

    async def reload(self) -> Scorer:
        """Read the configuration and the keys again, load the rewards beside the current ones, and swap.

        Requests in flight finish with the rewards they started with. Raise `ConfigError` if the new rewards cannot be
        loaded; the current ones then stay in use.
        """
        if self._static_rewards is not None:
            raise ConfigError("these rewards were passed in by a program: there is no configuration to reload")
        async with self._load_lock:
            started_s = time.monotonic()
            try:
                api_keys, (new, dialects) = self._settings.load_api_keys(), await self._load()
            except Exception as error:
                log.warning("reload failed, the rewards are unchanged: %s", _as_config_error(error))
                raise _as_config_error(error) from error
            self.api_keys = api_keys
            old = self._swap(new, dialects)
            log.info("reloaded after %.1f s: %s", time.monotonic() - started_s, ", ".join(new.rewards))
        if old is not None:
            self._spawn(_retire(old, self.on_retired))
        return new

    def reload_soon(self) -> None:
        """Schedule a reload on the event loop. Safe to call from a signal handler."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(lambda: self._spawn(self._reload_logged()))

    async def _reload_logged(self) -> None:
        with contextlib.suppress(RewardServiceError):  # already logged
            await self.reload()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _load(self) -> tuple[Scorer, Mapping[str, DialectOptions]]:
        """Build and start the rewards and let each score the canary, so that the first request meets no cold start."""
        (scorer, dialects), timeout_s = await self._build(), self._settings.batch_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                for reward in scorer.rewards.values():
                    await reward.start()
                await _score_canary(scorer)
        except BaseException as error:
            await scorer.stop()
            if isinstance(error, TimeoutError):
                raise ConfigError(f"no score within {timeout_s:g} s: the device does not finish") from None
            raise
        return scorer, dialects

    async def _build(self) -> tuple[Scorer, Mapping[str, DialectOptions]]:
        if self._static_rewards is not None:
            return Scorer(self._static_rewards, [next(iter(self._static_rewards))]), self._all_dialects
        config = read_config(self._settings.config, self._settings.rewards)
        dialects = self._all_dialects if config.dialects is None else config.dialects
        check_dialects(dialects, self._all_dialects)
        work = partial(build, config, self._settings, self._device, self._metrics.observe)
        executor = low_priority_executor("loading")  # an engine's own threads inherit its priority
        try:
            rewards = await asyncio.get_running_loop().run_in_executor(executor, work)
        finally:
            executor.shutdown(wait=False)  # stopping the service does not wait for a load
        return Scorer(rewards, config.default_rewards(), config.other_names()), dialects

    def _swap(self, new: Scorer, dialects: Mapping[str, DialectOptions]) -> Scorer | None:
        old, self._scorer, self.dialects = self._scorer, new, dialects
        self._metrics.record_loaded(
            [reward.info for reward in new.rewards.values()],
            depth=lambda: float(new.depth),
            backlog_s=lambda: new.backlog_s,
        )
        return old


async def _retire(scorer: Scorer, on_retired: Callable[[], object]) -> None:
    """Stop replaced rewards once the last request that uses them is answered."""
    try:
        await scorer.wait_idle()
    finally:
        await scorer.stop()
        del scorer  # the last reference
        on_retired()


def _as_config_error(error: Exception) -> RewardServiceError:
    if isinstance(error, RewardServiceError):
        return error
    return ConfigError(f"cannot load the rewards: {type(error).__name__}: {error}")


async def _score_canary(scorer: Scorer) -> None:
    """Score one text with every reward. Raise `ConfigError` for a reward that cannot."""
    for name, reward in scorer.rewards.items():
        if not reward.accepts_canary:
            continue  # a user's function may need columns that the canary lacks
        text = f"{reward.canary_prefix}{CANARY}"
        items = to_items(ScoreRequest(completions=[text], prompts=[CANARY]))
        result = await reward.score(items)
        null_non_finite(result)
        if result.scores[0] is None:
            raise ConfigError(f"rewards.{name} cannot score a simple sentence: {result.errors[0].message}")

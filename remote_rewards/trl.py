"""Reward functions for TRL whose scores come from a reward service.

In: what TRL passes to a reward function. Out: one float or None per completion, in order. None means that the reward
does not apply to the item or failed on it alone; TRL excludes such an item from the baseline. A call that fails for
good, a changed revision or too many failed items raise a `RewardError`, which stops the run.

Without code: `trl rloo --reward_funcs remote_rewards.sentiment` and `REWARD_URL` in the environment.
"""

import math
import os
import re
import statistics
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, overload

from remote_rewards.client import RewardClient
from remote_rewards.dataset_check import Row, check_dataset
from remote_rewards.failure_budget import FailureBudget, check_all_scored, mask_failed, mask_unlearned
from remote_rewards.hedging import HedgeAfter
from remote_rewards.reward_group import RewardCall, RewardResult, check_labels, learned_scores, score_in_group
from shared.errors import UnknownReward, check_revision
from shared.schemas import DEFAULT_PORT, NAME_PATTERN, RewardInfo, RewardScores, ServiceInfo

DEFAULT_URL = f"http://127.0.0.1:{DEFAULT_PORT}"
LATENCY_CALLS = 100
"""Number of recent calls over which the logged latencies are taken."""

COMPLETION_IDS = "completion_ids"
"""TRL's argument that travels as a column, to rewards that read it."""

LogMetric = Callable[[str, float], None]
LogExtra = Callable[[str, list[Any]], None]


@overload
def remote_reward(
    urls: str | Sequence[str],
    name: str,
    *,
    api_key: str | Path | None = ...,
    failure_budget: float = ...,
    timeout_s: float = ...,
    allow_revision_change: bool = ...,
    hedge_after_s: HedgeAfter = ...,
    label: str | None = ...,
    watch_only: bool = ...,
    sync: Literal[True],
) -> "SyncRemoteReward": ...
@overload
def remote_reward(
    urls: str | Sequence[str],
    name: str,
    *,
    api_key: str | Path | None = ...,
    failure_budget: float = ...,
    timeout_s: float = ...,
    allow_revision_change: bool = ...,
    hedge_after_s: HedgeAfter = ...,
    label: str | None = ...,
    watch_only: bool = ...,
    sync: bool = ...,
) -> "RemoteReward": ...
def remote_reward(
    urls: str | Sequence[str],
    name: str,
    *,
    api_key: str | Path | None = None,
    failure_budget: float = 0.01,
    timeout_s: float = 300.0,
    allow_revision_change: bool = False,
    hedge_after_s: HedgeAfter = "auto",
    label: str | None = None,
    watch_only: bool = False,
    sync: bool = False,
) -> "RemoteReward":
    """Return a reward function for TRL's `reward_funcs`: the reward `name` of the service at `urls`.

    `api_key` is the key or the path of its file; by default, the one in the environment. `failure_budget` is the share
    of the items of the last ten calls that may fail before the run is stopped. `timeout_s` bounds each call with its
    retries; keep it well below the `ddp_timeout` of a distributed run. With `allow_revision_change` the run continues
    when the reward's revision changes, and logs that. A request that takes longer than `hedge_after_s` is also sent to
    another replica: by default after a time taken from the latencies so far; with None, never.

    `label` is the name in TRL's metrics, by default `name`; rewards of one name at two services need two labels. With
    `watch_only`, for a reward of weight 0, nothing is learned from the reward: its failures, a service that is down
    included, give None and a warning, and neither stop the run nor mask the scores of other rewards.

    An item on which one reward fails gets no score from any reward called with it, of whatever service: a sum of the
    others would be a wrong reward. Rewards are called together if one `asyncio.gather` calls them with the same list of
    completions, as TRL does. This does not include reward functions that run in the trainer: serve those, too.

    With `sync`, the function is a plain one that returns floats, for trainers that do not await rewards, such as TRL's
    OnlineDPO, SDPO and A2PO: given an async function, they stop with "'coroutine' object is not iterable". They count
    an item without a score as 0.0, or cannot have one, so that any such item raises `FailureBudgetExceeded`.
    """
    endpoints = tuple(url.rstrip("/") for url in ([urls] if isinstance(urls, str) else urls))
    client = _shared_client(endpoints, api_key or api_key_from_environment(), timeout_s, hedge_after_s)
    reward_class = SyncRemoteReward if sync else RemoteReward
    return reward_class(
        client,
        name,
        failure_budget=failure_budget,
        allow_revision_change=allow_revision_change,
        label=label,
        watch_only=watch_only,
    )


@lru_cache(maxsize=32)
def _shared_client(
    urls: tuple[str, ...], api_key: str | Path | None, timeout_s: float, hedge_after_s: HedgeAfter
) -> RewardClient:
    """Return the one client for these settings: rewards with the same client are requested together."""
    return RewardClient(urls, api_key, timeout_s=timeout_s, hedge_after_s=hedge_after_s)


class RemoteReward:
    """An async reward function, named after its reward because TRL logs by that name. Can be pickled."""

    def __init__(
        self,
        client: RewardClient,
        name: str,
        *,
        failure_budget: float = 0.01,
        allow_revision_change: bool = False,
        label: str | None = None,
        watch_only: bool = False,
    ) -> None:
        self.client, self.name, self.allow_revision_change = client, name, allow_revision_change
        self.__name__ = self.label = label or name
        self.watch_only = watch_only
        self.revision: str | None = None
        """The revision of the latest scores, which the run is pinned to."""
        self._failure_budget = FailureBudget(name, failure_budget)
        self._latencies_s: deque[float] = deque(maxlen=LATENCY_CALLS)

    def __repr__(self) -> str:
        return f"remote_reward({self.client!r}, {self.name!r})"

    def handshake(self, info: ServiceInfo | None = None, *, timeout_s: float = 10.0) -> RewardInfo:
        """Check that the service has this reward, and pin its revision.

        Pass the same `info` to all rewards of a run: replicas may have different revisions. Raises `UnknownReward`,
        `RevisionChanged`, or what `RewardClient.info` raises.
        """
        info = info or self.client.info(timeout_s=timeout_s)
        for reward in info.rewards:
            if reward.name == self.name:
                self.revision = self.revision or reward.revision
                check_revision(self.name, reward.revision, self.revision)
                return reward
        served = ", ".join(reward.name for reward in info.rewards)
        message = f"{self.client.urls[0]} serves no reward {self.name!r}; it serves {served}"
        raise UnknownReward(message, status=404, code="unknown_reward")

    async def __call__(
        self,
        /,  # a column may be called self
        prompts: Sequence[Any] | None,
        completions: Sequence[Any],
        completion_ids: Sequence[Any] | None = None,
        trainer_state: Any = None,
        log_extra: LogExtra | None = None,
        log_metric: LogMetric | None = None,
        **columns: Sequence[Any],
    ) -> list[float | None]:
        """Score one generation batch. Raises, on every rank of the run, a `RewardError` if that fails."""
        pinned, previous = not (self.allow_revision_change or self.watch_only), self.revision
        if completion_ids is not None:
            columns[COMPLETION_IDS] = completion_ids
        call = RewardCall(
            self.client,
            self.name,
            prompts,
            columns,
            revision=previous if pinned else None,
            same_on_all_ranks=pinned,
            check=self._check,
            label=self.label,
            trainer_state=plain_fields(trainer_state),
            watch_only=self.watch_only,
        )
        results = await score_in_group(completions, call)
        result = results[call]
        self._latencies_s.append(result.latency_s)
        if log_metric is not None:
            self._log(log_metric, result, prompts, changed=previous not in {None, result.scores.revision})
        if log_extra is not None:
            for column, values in result.scores.extra.items():
                log_extra(column, values)
        mask = mask_unlearned if self.watch_only else mask_failed
        return mask(result.scores, learned_scores(results))

    def _log(
        self, log_metric: LogMetric, result: RewardResult, prompts: Sequence[Any] | None, *, changed: bool
    ) -> None:
        """Log how the call went, and what the function itself logged at the service."""
        metrics = reward_metrics(result.scores, prompts) | latency_metrics(self._latencies_s)
        for metric, value in {**metrics, "retries": result.retries, "service_revision_changed": changed}.items():
            log_metric(f"remote/{self.label}/{metric}", float(value))
        for metric, value in result.scores.metrics.items():
            log_metric(metric, value)

    def _check(self, scores: RewardScores) -> None:
        """Raise `RevisionChanged` or `FailureBudgetExceeded` where the run must not continue with these scores."""
        pinned = not (self.allow_revision_change or self.watch_only)
        if self.revision is not None and pinned:  # it may be set since the call started
            check_revision(self.name, scores.revision, self.revision)
        self.revision = scores.revision
        if not self.watch_only:
            self._failure_budget.record(scores)


class SyncRemoteReward(RemoteReward):
    """The reward as a plain function, which raises where an item has no score. Can be pickled."""

    def __call__(  # type: ignore[override]  # not a coroutine: that is its purpose
        self, /, prompts: Sequence[Any] | None, completions: Sequence[Any], **arguments: Any
    ) -> list[float | None]:
        """Score one batch like `RemoteReward`. Prompts may be None; a score is None only with `watch_only`."""
        return self.client.run(super().__call__(prompts, completions, **arguments))

    def _check(self, scores: RewardScores) -> None:
        super()._check(scores)
        if not self.watch_only:
            check_all_scored(self.name, scores)


def handshake(
    rewards: Sequence[RemoteReward], dataset: Iterable[Row] | None = None, *, timeout_s: float = 10.0
) -> list[RewardInfo]:
    """Check before a run that each reward is served and logged under a label of its own, and pin their revisions.

    With a `dataset`, also check that the rewards can read its first rows, pictures in prompts included. Return the
    rewards' descriptions in the same order, all those of a service from one replica. Raises `DuplicateLabel`,
    `NotSerializable`, `UnreadablePrompt`, or what `RemoteReward.handshake` raises.
    """
    check_labels((reward.label, reward.name, reward.client) for reward in rewards)
    services: dict[RewardClient, ServiceInfo] = {}
    for reward in rewards:
        if reward.client not in services:
            services[reward.client] = reward.client.info(timeout_s=timeout_s)
    infos = [reward.handshake(services[reward.client]) for reward in rewards]
    if dataset is not None:
        check_dataset([(info, services[reward.client]) for reward, info in zip(rewards, infos, strict=True)], dataset)
    return infos


def plain_fields(state: Any) -> dict[str, Any] | None:
    """Return the fields of TRL's trainer state that are numbers, strings, booleans or None; None without a state."""
    if state is None:
        return None
    fields = {name: value for name, value in vars(state).items() if isinstance(value, str | int | float | None)}
    return {name: value for name, value in fields.items() if not isinstance(value, float) or math.isfinite(value)}


def reward_metrics(reward: RewardScores, prompts: Sequence[Any] | None) -> dict[str, float]:
    """Return the metrics that show a degenerate reward.

    Shares of the items without a score and of the truncated items, and of the prompts whose scores are all equal.
    """
    items = max(1, len(reward.scores))
    prompts = [None] * len(reward.scores) if prompts is None else prompts
    groups: dict[str, set[float]] = {}
    for prompt, score in zip(prompts, reward.scores, strict=True):
        groups.setdefault(repr(prompt), set()).update(() if score is None else (score,))
    return {
        "frac_missing": sum(score is None for score in reward.scores) / items,
        "frac_truncated": len(reward.truncated) / items,
        "frac_reward_zero_std": sum(len(scores) <= 1 for scores in groups.values()) / max(1, len(groups)),
    }


def latency_metrics(latencies_s: Collection[float]) -> dict[str, float]:
    """Return median and 99th percentile (nearest rank) in milliseconds."""
    p99_s = sorted(latencies_s)[math.ceil(0.99 * len(latencies_s)) - 1]
    return {"latency_ms_p50": 1000 * statistics.median(latencies_s), "latency_ms_p99": 1000 * p99_s}


def urls_from_environment() -> list[str]:
    """Return the URLs in `REWARD_URL`, separated by commas, or the default port of this machine."""
    return [url.strip() for url in os.environ.get("REWARD_URL", DEFAULT_URL).split(",") if url.strip()]


def api_key_from_environment() -> str | Path | None:
    """Return the key in `REWARD_API_KEY`, or the path in `REWARD_API_KEY_FILE`."""
    path = os.environ.get("REWARD_API_KEY_FILE")
    return Path(path) if path else os.environ.get("REWARD_API_KEY")


def reward_from_environment(name: str) -> RemoteReward:
    """Return the reward `name` of the service at `REWARD_URL`. Raises `AttributeError` for an impossible name."""
    if name.startswith("_") or not re.fullmatch(NAME_PATTERN, name):
        raise AttributeError(f"{name!r} is neither public in remote_rewards nor the name of a reward")
    return remote_reward(urls_from_environment(), name)

"""The adapter that TRL calls: a remote reward that feels like a local function, and never lies.

In: what TRL hands to a reward function. Out: one float or None for each completion, in order. None means that the
reward does not apply to the item or failed on it alone; TRL leaves such an item out of the baseline. A call that
fails for good, a changed revision, too many failed items: an exception that says why, which stops the run.

With no code: `trl rloo --reward_funcs remote_rewards.sentiment` and `REWARD_URL` in the environment.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Container, Iterable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from remote_rewards.client import RewardClient
from remote_rewards.joint import Columns, JointClient
from remote_rewards.sums import Had, in_turn
from shared.errors import FailureBudgetExceeded, UnknownReward, check_revision
from shared.schemas import DEFAULT_PORT, ItemError, RewardInfo, RewardScores, ServiceInfo

DEFAULT_URL = f"http://127.0.0.1:{DEFAULT_PORT}"
NOT_APPLICABLE = "not_applicable"
BUDGET_CALLS = 10
LATENCY_CALLS = 100
"""Over so many calls the latencies are taken that a run logs."""
RANK_TIMEOUT_MARGIN_S = 30.0
"""How much longer than its own longest call a process waits for the others."""

LogMetric = Callable[[str, float], None]


def remote_reward(
    urls: str | Sequence[str],
    name: str,
    *,
    api_key: str | Path | None = None,
    failure_budget: float = 0.01,
    timeout_s: float = 300.0,
    allow_revision_change: bool = False,
) -> "RemoteReward":
    """Make a reward function for TRL's `reward_funcs` out of the reward `name` served at `urls`.

    `api_key` is the key or the path of a file with it. `failure_budget` is the share of the last ten calls' items that
    may fail before the run is stopped. `timeout_s` bounds each call, retries included; keep it well below the
    `ddp_timeout` of a distributed run. With `allow_revision_change` the run goes on with whatever scores, and logs it.

    An item on which one reward fails has no score of any that is asked with it, of whatever service: half a sum is a
    wrong reward. What is asked together is what one `asyncio.gather` asks of the same list of completions, as TRL does.
    A function of your own that runs in the trainer beside it is not part of that: have the service serve it, too.
    """
    addresses = tuple(url.rstrip("/") for url in ([urls] if isinstance(urls, str) else urls))
    joint = _joint_client(addresses, api_key or api_key_from_environment(), timeout_s)
    return RemoteReward(joint, name, failure_budget=failure_budget, allow_revision_change=allow_revision_change)


@lru_cache(maxsize=32)
def _joint_client(urls: tuple[str, ...], api_key: str | Path | None, timeout_s: float) -> JointClient:
    """Make the one client of all rewards of these replicas, so that they share connections and requests."""
    return JointClient(RewardClient(urls, api_key, timeout_s=timeout_s))


class RemoteReward:
    """An async reward function with a name of its own, which TRL needs to tell metrics apart. Picklable."""

    def __init__(
        self, joint: JointClient, name: str, *, failure_budget: float = 0.01, allow_revision_change: bool = False
    ) -> None:
        self._joint, self.client = joint, joint.client
        self.name, self.failure_budget, self.allow_revision_change = name, failure_budget, allow_revision_change
        self.__name__ = name
        self.revision: str | None = None
        self._recent: deque[tuple[int, int]] = deque(maxlen=BUDGET_CALLS)  # (failed, items) of each call
        self._latencies_ms: deque[float] = deque(maxlen=LATENCY_CALLS)

    def __repr__(self) -> str:
        return f"remote_reward({self.client!r}, {self.name!r})"

    def handshake(self, info: ServiceInfo | None = None, *, timeout_s: float = 10.0) -> RewardInfo:
        """Make sure before step 0 that a reward service with this reward is there, and pin its revision.

        Rewards of one run are to be pinned by one `info`: each replica that is asked may have others.
        """
        info = info or self.client.info(timeout_s=timeout_s)
        for reward in info.rewards:
            if reward.name == self.name:
                self.revision = self.revision or reward.revision
                check_revision(self.name, reward.revision, self.revision)
                return reward
        known = ", ".join(reward.name for reward in info.rewards)
        message = f"{self.client.urls[0]} serves no reward {self.name!r}; it serves {known}"
        raise UnknownReward(message, status=404, code="unknown_reward")

    async def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Any = None,
        trainer_state: Any = None,
        log_extra: Any = None,
        log_metric: LogMetric | None = None,
        **columns: Sequence[Any],
    ) -> list[float | None]:
        """Score one generation batch. Raises a `RewardError` where it cannot, on every process of the run."""
        scoring = partial(self._score, completions, prompts, columns, log_metric or (lambda name, value: None))
        check = partial(check_no_fully_failed_group, prompts)
        mine, summed = await in_turn(completions, scoring, check, self.client.timeout_s + RANK_TIMEOUT_MARGIN_S)
        return mask_failed(mine, summed)

    async def _score(
        self, completions: Sequence[Any], prompts: Sequence[Any], columns: Columns, log_metric: LogMetric
    ) -> Had:
        import numpy as np  # heavy, and only a training needs it

        started_s, retries = time.monotonic(), self.client.retries
        pinned = None if self.allow_revision_change else self.revision
        response = await self._joint.score(self.name, completions, prompts, columns, revision=pinned)
        self._latencies_ms.append(1000 * (time.monotonic() - started_s))
        reward, before = response.rewards[self.name], self.revision  # another call may have met one meanwhile
        if before is not None and not self.allow_revision_change:
            check_revision(self.name, reward.revision, before)
        self.revision = reward.revision
        self._count(reward)
        figures = {
            **reward_metrics(reward, prompts),
            "latency_ms_p50": float(np.quantile(self._latencies_ms, 0.5)),
            "latency_ms_p99": float(np.quantile(self._latencies_ms, 0.99)),
            "retries": float(self.client.retries - retries),
            "service_revision_changed": float(before not in {None, reward.revision}),
        }
        for metric, value in figures.items():
            log_metric(f"remote/{self.name}/{metric}", value)
        return Had(self.name, reward, pinned=not self.allow_revision_change)

    def _count(self, reward: RewardScores) -> None:
        failed = failures(reward)
        self._recent.append((len(failed), len(reward.scores)))
        if over_budget(list(self._recent), self.failure_budget):
            reasons = sorted({f"{error.code}: {error.message}" for error in failed})
            raise FailureBudgetExceeded(
                f"{sum(f for f, _ in self._recent)} of the last {sum(n for _, n in self._recent)} completions have no "
                f"{self.name!r} score, more than {self.failure_budget:.0%} allowed; {'; '.join(reasons[:3])}"
            )


def mask_failed(mine: RewardScores, summed: Iterable[RewardScores]) -> list[float | None]:
    """Give a reward's scores, without those of items on which another reward of the same sum has failed.

    TRL sums the rewards that it has of an item: what is left of a sum whose other half failed is a wrong reward. A
    reward that does not apply is left out of the sum on purpose.
    """
    failed = failed_items(summed)
    return [None if str(index) in failed else score for index, score in enumerate(mine.scores)]


def check_no_fully_failed_group(prompts: Sequence[Any], summed: Iterable[RewardScores]) -> None:
    """Raise `FailureBudgetExceeded` if every completion of a prompt lacks one of its scores."""
    failed = failed_items(summed)
    if prompt := fully_failed_group(failed, prompts):
        error = next(iter(failed.values()))
        raise FailureBudgetExceeded(
            f"no completion of the prompt {prompt[:80]!r} has all its scores: there is nothing to compare; "
            f"{error.code}: {error.message}"
        )


def fully_failed_group(failed: Container[str], prompts: Sequence[Any]) -> str | None:
    """Give a prompt of which every completion failed, where it has several: no baseline is left for it."""
    groups: dict[str, list[bool]] = {}
    for index, prompt in enumerate(prompts):
        groups.setdefault(repr(prompt), []).append(str(index) in failed)
    return next((prompt for prompt, lost in groups.items() if len(lost) > 1 and all(lost)), None)


def failed_items(summed: Iterable[RewardScores]) -> dict[str, ItemError]:
    """Give the items that should have had a score of each reward and lack one, with an error of each."""
    errors = (item for reward in summed for item in reward.errors.items())
    return {index: error for index, error in errors if error.code != NOT_APPLICABLE}


def failures(reward: RewardScores) -> list[ItemError]:
    """Give the errors of the items that should have had a score."""
    return list(failed_items([reward]).values())


def over_budget(recent: Sequence[tuple[int, int]], budget: float) -> bool:
    """Tell whether more items failed in recent calls than the budget allows: one always may, but never all of them."""
    failed, items = (sum(column) for column in zip(*recent, strict=True))
    return bool(failed > max(1.0, budget * items) or (items > 0 and failed == items))


def reward_metrics(reward: RewardScores, prompts: Sequence[Any]) -> dict[str, float]:
    """Give the figures by which a sick reward is seen in the log."""
    count = max(1, len(reward.scores))
    groups: dict[str, set[float]] = {}
    for prompt, score in zip(prompts, reward.scores, strict=True):
        groups.setdefault(repr(prompt), set()).update(() if score is None else (score,))
    return {
        "frac_missing": sum(score is None for score in reward.scores) / count,
        "frac_truncated": len(reward.truncated) / count,
        "frac_reward_zero_std": sum(len(scores) <= 1 for scores in groups.values()) / max(1, len(groups)),
    }


def urls_from_environment() -> list[str]:
    """Give the addresses in `REWARD_URL` (several: separated by commas), or this machine's default port."""
    return [url.strip() for url in os.environ.get("REWARD_URL", DEFAULT_URL).split(",") if url.strip()]


def api_key_from_environment() -> str | Path | None:
    """Give the key in `REWARD_API_KEY`, or the file that `REWARD_API_KEY_FILE` names."""
    path = os.environ.get("REWARD_API_KEY_FILE")
    return Path(path) if path else os.environ.get("REWARD_API_KEY")


def reward_from_environment(name: str) -> RemoteReward:
    """Return the reward `name` of the service at `REWARD_URL`. Raises AttributeError for a private name."""
    if name.startswith("_"):
        raise AttributeError(name)
    return remote_reward(urls_from_environment(), name)

"""Group the reward calls of one batch: one request per service, and one outcome for all calls.

TRL calls every reward function by itself, all of them in one event-loop tick with the same list of completions, and
sums their scores. In: those calls. Out, for each of them: the results of all calls, once all have succeeded on every
rank. The first failure fails the whole group.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from remote_rewards.client import RewardClient
from remote_rewards.distributed import all_ranks_succeed
from remote_rewards.failure_budget import check_fully_failed_group
from shared.aio import gather_or_cancel
from shared.errors import DuplicateLabel, RewardError
from shared.schemas import ItemError, RewardScores

log = logging.getLogger("remote_rewards")
WATCH_TIMEOUT_S = 30.0
"""Longest time that a step waits for a reward that is only watched."""


@dataclass(frozen=True, slots=True, eq=False)
class RewardCall:
    """One call of a reward function: the client to use, the reward to request and its inputs."""

    client: RewardClient
    name: str
    prompts: Sequence[Any] | None
    columns: Mapping[str, Sequence[Any]]
    revision: str | None
    """The only revision whose scores are accepted; None accepts any."""
    same_on_all_ranks: bool
    """Whether all ranks must have scores of the same revision."""
    check: Callable[[RewardScores], None]
    """Raises an exception where the run must not continue with these scores."""
    label: str
    """The name under which the reward is logged."""
    trainer_state: Mapping[str, Any] | None = None
    watch_only: bool = False
    """Whether nothing is learned from the reward: its failures are logged and stop nothing."""

    @property
    def request_key(self) -> tuple[Any, ...]:
        """The identity of all inputs: calls with the same key are sent in one request."""
        columns = ((name, id(values)) for name, values in self.columns.items())
        return id(self.client), self.watch_only, id(self.prompts), *columns


@dataclass(frozen=True, slots=True)
class RewardResult:
    """The scores of one call, and the latency and the retries of the request that returned them."""

    scores: RewardScores
    latency_s: float
    retries: int


Results = dict[RewardCall, RewardResult]
_open_groups: dict[tuple[asyncio.AbstractEventLoop, int], "RewardGroup"] = {}
"""The groups that calls can still join, by event loop and identity of the completions: rewards share nothing else."""


async def score_in_group(completions: Sequence[Any], call: RewardCall) -> Results:
    """Return the results of all calls over the same completions in this event-loop tick.

    Raises, for every call of the group and on every rank, the first error of any of them.
    """
    key = (asyncio.get_running_loop(), id(completions))
    group = _open_groups.get(key) or RewardGroup(key, completions)
    group.calls.append(call)
    group.waiters += 1
    try:
        return await asyncio.shield(group.task)  # a cancelled caller must not cancel the others
    finally:
        group.waiters -= 1
        if not group.waiters:
            group.close()
            group.task.cancel()


@dataclass(eq=False)
class RewardGroup:
    """The calls of one event-loop tick over the same completions."""

    key: tuple[asyncio.AbstractEventLoop, int]
    completions: Sequence[Any]  # referenced while the group is open, so that no other object gets its id
    calls: list[RewardCall] = field(default_factory=list)
    waiters: int = 0

    def __post_init__(self) -> None:
        _open_groups[self.key] = self
        self.task = asyncio.create_task(self._score())

    def close(self) -> None:
        """Accept no further calls."""
        if _open_groups.get(self.key) is self:
            del _open_groups[self.key]

    async def _score(self) -> Results:
        await asyncio.sleep(0)  # the other calls of this tick join meanwhile
        self.close()
        check_labels((call.label, call.name, call.client) for call in self.calls)
        async with all_ranks_succeed(max(call.client.timeout_s for call in self.calls)) as revisions:
            results = await self._request_all()
            check_fully_failed_group(self.calls[0].prompts or (), learned_scores(results))
            revisions.update({call.label: results[call].scores.revision for call in results if call.same_on_all_ranks})
        return results

    async def _request_all(self) -> Results:
        requests: dict[tuple[Any, ...], list[RewardCall]] = {}
        for call in self.calls:
            requests.setdefault(call.request_key, []).append(call)
        if len(requests) == 1:
            return await self._request(self.calls)  # no further task: a traceback shows the whole call
        parts = await gather_or_cancel(self._request(calls) for calls in requests.values())
        return {call: result for part in parts for call, result in part.items()}

    async def _request(self, calls: Sequence[RewardCall]) -> Results:
        """Send one request for the rewards of all these calls, which have the same client and inputs."""
        client, prompts, columns = calls[0].client, calls[0].prompts, calls[0].columns
        names = list(dict.fromkeys(call.name for call in calls))
        revisions = {call.name: call.revision for call in calls if call.revision is not None}
        started_s, retries = time.monotonic(), client.retries
        try:
            async with asyncio.timeout(WATCH_TIMEOUT_S if calls[0].watch_only else None):
                response = await client.ascore(
                    self.completions, prompts, columns, names, revisions=revisions, trainer_state=calls[0].trainer_state
                )
            scores = {call: response.rewards[call.name] for call in calls}
            for call in calls:
                call.check(scores[call])
        except (RewardError, TimeoutError) as error:
            if not calls[0].watch_only:
                raise
            log.warning("no scores of %s, which is only watched: %s", ", ".join(names), error or "no response in time")
            scores = dict.fromkeys(calls, without_scores(len(self.completions), str(error)))
        latency_s, retries = time.monotonic() - started_s, client.retries - retries
        return {call: RewardResult(scores[call], latency_s, retries) for call in calls}


def check_labels(rewards: Iterable[tuple[str, str, RewardClient]]) -> None:
    """Raise `DuplicateLabel` if two rewards, each (label, name, client), of different services share a label."""
    clients: dict[str, RewardClient] = {}
    for label, name, client in rewards:
        if clients.setdefault(label, client) is not client:
            raise DuplicateLabel(
                f"two rewards of different services are logged as {label!r}, so that their metrics mix: give one "
                f"another name, as in remote_reward(url, {name!r}, label={label + '_b'!r})"
            )


def learned_scores(results: Results) -> list[RewardScores]:
    """Return the scores of the rewards that are not only watched."""
    return [result.scores for call, result in results.items() if not call.watch_only]


def without_scores(count: int, reason: str) -> RewardScores:
    """Return what stands for the scores of a call that failed."""
    error = ItemError(code="call_failed", message=reason)
    errors = {str(index): error for index in range(count)}
    return RewardScores(scores=[None] * count, revision="", errors=errors)

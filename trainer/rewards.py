"""The rewards and judges of a run: connect to the service, pin the revisions, describe them in rewards.json."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from remote_rewards import RewardClient
from remote_rewards.distributed import check_same_revisions, on_all_ranks, rank
from remote_rewards.trl import RemoteReward, remote_reward
from shared.errors import NotReady, ServiceUnreachable, did_you_mean
from shared.schemas import RewardInfo, ServiceInfo
from trainer.algorithms import TrainingConfig
from trainer.display import log
from trainer.diversity import MANIFEST_ROW
from trainer.errors import TrainerError
from trainer.judges import LOCAL_JUDGES
from trainer.run_arguments import RunArguments
from trainer.training_data import TrainingData

LOADING_CODE = "not_ready"
"""The code of a service whose first load has not ended. One that drains has another."""
LOADING_TIMEOUT_S = 600.0
"""The first start of a service prepares its models and measures their engines, which takes 5 to 7 minutes."""


@dataclasses.dataclass(frozen=True)
class ConnectedRewards:
    """The reward functions of a run, and what the service says about them."""

    functions: list[RemoteReward]
    """The rewards to train on, in the order of `RunArguments.rewards`."""
    infos: list[RewardInfo]
    """Their descriptions, in the same order."""
    revisions: dict[str, str]
    """The revision of every reward by name, including those of the judges."""
    judges: list[RemoteReward] = dataclasses.field(default_factory=list)
    """The judges that are rewards of the service, in the order of `RunArguments.remote_judges`."""
    judge_infos: list[RewardInfo] = dataclasses.field(default_factory=list)
    """Their descriptions, in the same order."""

    @property
    def watched(self) -> list[str]:
        """The names of those from which nothing is learned."""
        return [function.name for function in [*self.functions, *self.judges] if function.watch_only]


def connect_rewards(run: RunArguments) -> ConnectedRewards:
    """Wait until the service has every reward of the run, and pin the revisions, the same on all processes."""
    trained = {name: reward_function(run, name) for name in run.rewards}
    judges = {name: reward_function(run, name, watch_only=True) for name in run.remote_judges}
    infos_by_rank = on_all_ranks(lambda: reward_infos(trained, judges, run.wait_for_rewards_s))
    if not run.allow_revision_change:
        check_same_revisions([*map(_revisions, infos_by_rank)])
    infos = infos_by_rank[rank()]
    for name in run.rewards:
        log(f"reward {name} ({infos[name].kind}), revision {infos[name].revision}")
    infos_of = [[infos[name] for name in functions] for functions in (trained, judges)]
    return ConnectedRewards([*trained.values()], infos_of[0], _revisions(infos), [*judges.values()], infos_of[1])


def reward_function(run: RunArguments, name: str, *, watch_only: bool = False) -> RemoteReward:
    """Return the reward function of this name with the run's settings."""
    return remote_reward(
        run.reward_url,
        name,
        failure_budget=run.failure_budget,
        timeout_s=run.reward_timeout_s,
        allow_revision_change=run.allow_revision_change,
        hedge_after_s="auto" if run.hedge_after_s is None else run.hedge_after_s or None,
        watch_only=watch_only,
    )


def reward_infos(
    trained: Mapping[str, RemoteReward], judges: Mapping[str, RemoteReward], timeout_s: float
) -> dict[str, RewardInfo]:
    """Return the description of each reward, all from one replica: replicas may differ in their revisions."""
    service = service_info(next(iter(trained.values())).client, timeout_s)
    served = [reward.name for reward in service.rewards]
    for name in judges.keys() - served:
        hint = did_you_mean(name, [*LOCAL_JUDGES, *served])
        raise TrainerError(
            f"unknown judge {name!r}{hint}; choose from the rewards of the service ({', '.join(served)}) and "
            f"{', '.join(LOCAL_JUDGES)}"
        )
    return {name: function.handshake(service) for name, function in {**trained, **judges}.items()}


def service_info(client: RewardClient, timeout_s: float) -> ServiceInfo:
    """Return what the service says about itself within `timeout_s`, or 10 minutes if it is loading its models."""
    try:
        return client.info(timeout_s=timeout_s)
    except ServiceUnreachable as error:
        cause = error.__cause__
        if not (isinstance(cause, NotReady) and cause.code == LOADING_CODE):
            raise
    log(f"the service is loading its models: waiting for it, up to {LOADING_TIMEOUT_S:g} s")
    return client.info(timeout_s=max(timeout_s, LOADING_TIMEOUT_S))


def _revisions(infos: Mapping[str, RewardInfo]) -> dict[str, str]:
    return {name: info.revision for name, info in infos.items()}


def reward_weights(run: RunArguments, args: TrainingConfig, data: TrainingData) -> list[float]:
    """Return the weight of each reward. In completions that were chosen by a reward, the others have had none.

    Raises `TrainerError` for another number of weights than rewards.
    """
    if data.offline:
        return [float(name == data.reward) for name in run.rewards]
    weights = [1.0] * len(run.rewards) if args.reward_weights is None else args.reward_weights
    if len(weights) != len(run.rewards):
        raise TrainerError(
            f"--reward_weights has {len(weights)} weights for {len(run.rewards)} rewards: give one for each"
        )
    return list(weights)


def reward_manifest(run: RunArguments, weights: Sequence[float], rewards: ConnectedRewards) -> dict[str, Any]:
    """Return the content of rewards.json: URLs, rewards with their weights, judges, and all revisions."""
    rows = [{**info.model_dump(), "weight": weight} for info, weight in zip(rewards.infos, weights, strict=True)]
    if run.diversity_weight:
        rows.append({**MANIFEST_ROW, "weight": run.diversity_weight})
    judges = [info.model_dump() for info in rewards.judge_infos]
    judges += [{"name": name, "kind": "local", "description": LOCAL_JUDGES[name].__doc__} for name in run.local_judges]
    return {"urls": run.reward_url, "rewards": rows, "judges": judges, "revisions": rewards.revisions}


def watch_unweighted(functions: Sequence[RemoteReward], weights: Sequence[float]) -> None:
    """Mark the rewards of weight 0: nothing is learned from them, so their failures are logged and stop nothing."""
    for function, weight in zip(functions, weights, strict=True):
        function.watch_only = weight == 0

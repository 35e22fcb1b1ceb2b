"""Score text with a remote reward service, from any program or as a reward function of TRL.

`RewardClient` is the client; `remote_reward(url, name)` makes a reward function for TRL's `reward_funcs`. With no code:
`trl rloo --reward_funcs remote_rewards.<name>` and `REWARD_URL` in the environment.
"""

from remote_rewards.client import RewardClient
from remote_rewards.trl import RemoteReward, remote_reward
from shared.errors import (
    BadRequest,
    FailureBudgetExceeded,
    InsecureTransport,
    InternalServerError,
    InvalidApiKey,
    InvalidResponse,
    InvalidUrl,
    NotARewardService,
    NotReady,
    NotSerializable,
    Overloaded,
    RankFailed,
    RequestTimeout,
    RevisionChanged,
    RewardError,
    ServiceError,
    ServiceUnreachable,
    Unauthorized,
    UnknownReward,
)
from shared.schemas import RewardInfo, RewardScores, ScoreRequest, ScoreResponse, ServiceInfo

__all__ = [
    "BadRequest",
    "FailureBudgetExceeded",
    "InsecureTransport",
    "InternalServerError",
    "InvalidApiKey",
    "InvalidResponse",
    "InvalidUrl",
    "NotARewardService",
    "NotReady",
    "NotSerializable",
    "Overloaded",
    "RankFailed",
    "RemoteReward",
    "RequestTimeout",
    "RevisionChanged",
    "RewardClient",
    "RewardError",
    "RewardInfo",
    "RewardScores",
    "ScoreRequest",
    "ScoreResponse",
    "ServiceError",
    "ServiceInfo",
    "ServiceUnreachable",
    "Unauthorized",
    "UnknownReward",
    "remote_reward",
]


def __getattr__(name: str) -> RemoteReward:
    """Return the reward of that name, so that TRL can import `remote_rewards.<reward>`."""
    from remote_rewards.trl import reward_from_environment

    return reward_from_environment(name)

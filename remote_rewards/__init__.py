"""Score text with a remote reward service, from any program or as a reward function of TRL.

`RewardClient` is the client; `remote_reward(url, name)` returns a reward function for TRL's `reward_funcs`. Without
code: `trl rloo --reward_funcs remote_rewards.<name>` and `REWARD_URL` in the environment. If `<name>` is also a module
of this package, such as `client`, the reward is `remote_rewards.rewards.<name>`.
"""

from remote_rewards import import_check, rewards  # noqa: F401 (the check comes first: it explains why imports fail)
from remote_rewards.client import RewardClient
from remote_rewards.retry_log import RetryScheduled
from remote_rewards.trl import RemoteReward, SyncRemoteReward, handshake, remote_reward, reward_from_environment
from shared.errors import (
    BadRequest,
    DuplicateLabel,
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
    UnreadablePrompt,
)
from shared.schemas import RewardInfo, RewardScores, ScoreRequest, ScoreResponse, ServiceInfo
from shared.text import text_of

__all__ = [
    "BadRequest",
    "DuplicateLabel",
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
    "RetryScheduled",
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
    "SyncRemoteReward",
    "Unauthorized",
    "UnknownReward",
    "UnreadablePrompt",
    "handshake",
    "remote_reward",
    "rewards",
    "text_of",
]


def __getattr__(name: str) -> RemoteReward:
    """Return the reward of that name: TRL imports `remote_rewards.<name>`."""
    return reward_from_environment(name)

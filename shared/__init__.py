"""The wire between a policy and its rewards: schemas, errors, the client, the model store."""

from shared.client import RewardClient
from shared.errors import (
    BadAddress,
    BadAnswer,
    BadRequest,
    NotARewardService,
    NotReady,
    Overloaded,
    RankFailed,
    RevisionChanged,
    RewardError,
    ServiceBroken,
    ServiceRefused,
    ServiceUnreachable,
    TooManyFailures,
    TooSlow,
    Unauthorized,
    UnknownReward,
    UnsafeAddress,
)
from shared.schemas import RewardInfo, RewardScores, ScoreRequest, ScoreResponse, ServiceInfo

__all__ = [
    "BadAddress",
    "BadAnswer",
    "BadRequest",
    "NotARewardService",
    "NotReady",
    "Overloaded",
    "RankFailed",
    "RevisionChanged",
    "RewardClient",
    "RewardError",
    "RewardInfo",
    "RewardScores",
    "ScoreRequest",
    "ScoreResponse",
    "ServiceBroken",
    "ServiceInfo",
    "ServiceRefused",
    "ServiceUnreachable",
    "TooManyFailures",
    "TooSlow",
    "Unauthorized",
    "UnknownReward",
    "UnsafeAddress",
]

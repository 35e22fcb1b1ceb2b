"""What can go wrong when text is scored remotely.

RewardError
├── ServiceUnreachable      nobody answered, or not in time            (tried again)
├── ServiceRefused          the service answered with a problem
│   ├── ServiceBroken       500: what answers has failed               (tried again for a short while)
│   ├── Overloaded          429: its queue is full                     (tried again)
│   ├── NotReady            503: loading, draining                     (tried again)
│   ├── TooSlow             408: the request did not arrive in time    (tried again)
│   ├── BadRequest          400, 413, 415, 422: the request is wrong
│   ├── Unauthorized        401, 403
│   └── UnknownReward       404: no reward of that name
├── BadAddress              an address is none at all, or of a kind that is not known
├── BadKey                  the file of a key has none, or the key cannot be sent
├── CannotBeSent            a column holds what JSON cannot
├── UnsafeAddress           a key would go over an open wire
├── NotARewardService       something answered, but it is not this service
├── BadAnswer               the answer breaks the contract: lengths, order, a number that is none
├── RevisionChanged         the scores come from other weights than the run began with
├── TooManyFailures         more items without a score than the failure budget allows
└── RankFailed              another process of a distributed run could not score
"""

from functools import partial
from typing import Any, ClassVar


class RewardError(Exception):
    """A reward could not be had. The message says what to do."""

    retryable: ClassVar[bool] = False


class ServiceUnreachable(RewardError):
    """Nobody answered at the address, or not in time."""

    retryable = True


class ServiceError(RewardError):
    """The service answered with a problem document."""

    def __init__(self, message: str, *, status: int, code: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.retry_after_s = status, code, retry_after_s

    def __reduce__(self) -> tuple[Any, ...]:
        """Let it travel between processes, which an exception with names for its parts does not by itself."""
        made = partial(type(self), status=self.status, code=self.code, retry_after_s=self.retry_after_s)
        return made, self.args


class InternalServerError(ServiceError):
    """What answers at the address says 500: it is there, and it has failed. One that restarts does not say that."""

    retryable = True


class Overloaded(ServiceError):
    """The service's queue is full."""

    retryable = True


class NotReady(ServiceError):
    """The service is loading its models, draining, or broken for the moment."""

    retryable = True


class RequestTimeout(ServiceError):
    """The request did not reach the service in the time it gives."""

    retryable = True


class BadRequest(ServiceError):
    """The request is wrong; asking again would not help."""


class Unauthorized(ServiceError):
    """The API key is missing, wrong or expired."""


class UnknownReward(ServiceError):
    """The service has no reward of that name."""


class InvalidUrl(RewardError, ValueError):
    """An address is none at all, or of a kind that is not known: nobody could be asked there."""


class InvalidApiKey(RewardError, ValueError):
    """The file of an API key cannot be read or has none, or the key cannot be sent. The message does not tell it."""


class NotSerializable(RewardError, ValueError):
    """A column of the request holds what JSON cannot, such as NaN or a date."""


class InsecureTransport(RewardError):
    """The API key could be read on its way."""


class NotARewardService(RewardError):
    """Something answers at the address, but it is not a reward service."""


class InvalidResponse(RewardError):
    """The answer breaks the contract of the wire."""

    retryable = True


class RevisionChanged(RewardError):
    """The scores come from other weights than the run began with."""


class FailureBudgetExceeded(RewardError):
    """More items have no score than the failure budget allows."""


class RankFailed(RewardError):
    """Another process of a distributed run could not score."""


def check_revision(name: str, revision: str, expected: str) -> None:
    """Raise `RevisionChanged` if a reward has another revision than the run started with."""
    if revision != expected:
        raise RevisionChanged(
            f"the reward {name!r} changed during the run: it began with {expected} and is now {revision}; "
            f"rewards of two models do not compare, so start a new run or serve the old one again"
        )

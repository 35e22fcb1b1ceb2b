"""Errors of remote scoring.

RewardError
├── ServiceUnreachable      no response, or not in time                        (retried)
├── ServiceError            the service responded with an error
│   ├── InternalServerError 500                                            (retried for a short time)
│   ├── Overloaded          429: its queue is full                             (retried)
│   ├── NotReady            503: loading or draining                           (retried)
│   ├── RequestTimeout      408: the request did not arrive in time            (retried)
│   ├── BadRequest          400, 413, 415, 422: the request is invalid
│   ├── Unauthorized        401, 403
│   └── UnknownReward       404: no reward has that name
├── InvalidUrl              a URL is malformed or has an unknown scheme
├── InvalidApiKey           the key file is empty or unreadable, or the key cannot be sent in a header
├── NotSerializable         a column holds a value that JSON cannot represent
├── UnreadablePrompt        a prompt holds a picture or the like, and a model would read it
├── InsecureTransport       the API key would be sent unencrypted
├── NotARewardService       another service responds at the URL
├── InvalidResponse         the response violates the wire format: lengths, order, invalid numbers  (retried)
├── RevisionChanged         the scores come from another revision than the run started with
├── DuplicateLabel          two rewards are logged under one name
├── FailureBudgetExceeded   more items without a score than the failure budget allows
└── RankFailed              another process of a distributed run has failed or died
"""

import difflib
from collections.abc import Iterable
from functools import partial
from typing import Any, ClassVar


class RewardError(Exception):
    """A reward could not be computed. The message says what to do."""

    retryable: ClassVar[bool] = False
    """Whether the same call may succeed later."""


class ServiceUnreachable(RewardError):
    """The service did not respond, or not in time."""

    retryable = True


class ServiceError(RewardError):
    """The service responded with a problem document."""

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str,
        retry_after_s: float | None = None,
        instance: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.retry_after_s, self.instance = status, code, retry_after_s, instance

    def __reduce__(self) -> tuple[Any, ...]:
        """Support pickling, which by default drops keyword-only arguments."""
        fields: dict[str, Any] = {name: vars(self)[name] for name in ("status", "code", "retry_after_s", "instance")}
        return partial(type(self), **fields), self.args


class InternalServerError(ServiceError):
    """The service responded with 500. Restarting services refuse connections instead, so this may be permanent."""

    retryable = True


class Overloaded(ServiceError):
    """The service's queue is full."""

    retryable = True


class NotReady(ServiceError):
    """The service is loading its models, draining, or temporarily unable to compute."""

    retryable = True


class RequestTimeout(ServiceError):
    """The request did not reach the service within its time limit."""

    retryable = True


class BadRequest(ServiceError):
    """The request is invalid; a retry would fail again."""


class Unauthorized(ServiceError):
    """The API key is missing, wrong or expired."""


class UnknownReward(ServiceError):
    """The service has no reward of that name."""


class InvalidUrl(RewardError, ValueError):
    """A URL is malformed or has an unknown scheme."""


class InvalidApiKey(RewardError, ValueError):
    """The key file is empty or unreadable, or the key cannot be sent in a header. The message never shows the key."""


class NotSerializable(RewardError, ValueError):
    """A column holds a value that JSON cannot represent, such as NaN or a date."""


class UnreadablePrompt(RewardError, ValueError):
    """A prompt of the dataset holds something other than text, and a reward model would read it."""


class InsecureTransport(RewardError):
    """The API key would be sent unencrypted over a network."""


class NotARewardService(RewardError):
    """Something responds at the URL, but it is not a reward service."""


class InvalidResponse(RewardError):
    """The response violates the wire format."""

    retryable = True


class RevisionChanged(RewardError):
    """The scores come from another revision of the reward than the run started with."""


class FailureBudgetExceeded(RewardError):
    """More items have no score than the failure budget allows."""


class DuplicateLabel(RewardError, ValueError):
    """Two rewards of different services are logged under one name."""


class RankFailed(RewardError):
    """Another process of a distributed run has failed or died."""


def check_revision(name: str, revision: str, expected: str) -> None:
    """Raise `RevisionChanged` if a reward has another revision than the run started with."""
    if revision != expected:
        raise RevisionChanged(describe_change(name, revision, expected))


def describe_change(name: str, revision: str, expected: str) -> str:
    """Return what is wrong with another revision, and what to do."""
    return (
        f"the reward {name!r} changed during the run: it began with {expected} and is now {revision}; "
        f"rewards of two models do not compare, so start a new run or serve the old one again"
    )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean '…'?` with the known name closest to `name`, or the empty string if none is close."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""

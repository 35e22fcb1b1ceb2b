"""What the service answers when it cannot score. Each class knows its own answer.

RewardServiceError
├── ConfigError              at start: the configuration is wrong; one sentence, exit code 2
├── BadJson          400     the body is not JSON
├── Unauthenticated  401     no key, or a wrong one
├── UnknownReward    404     no reward of that name (lists the known ones)
├── BodyTooLarge     413     more bytes than a request may have
├── BadContentType   415     not JSON, or compressed
├── BodyTooSlow      408     the body does not arrive
├── NotReloaded      409     the configuration cannot be loaded; the old one serves on
├── Invalid          422     JSON of the wrong shape
├── CallerGone       499     nobody waits for the answer; counted, not sent
├── Fault            500     a fault of the service
├── Overloaded       429     the queue is full; says when to try again   (retryable)
├── NotReady         503     loading                                     (retryable)
│   ├── Draining     503     shutting down                               (retryable)
│   └── Stalled      503     a model does not finish                     (retryable)
├── DeadlineExceeded 503     the caller's time ran out before compute    (retryable)
└── BackendFailed    503     the model failed                            (retryable)
    └── Unable       503     it computes nothing any more                (retryable)
"""

import contextlib
from collections.abc import Iterator
from typing import ClassVar


class RewardServiceError(Exception):
    """The base of all; the message is for the caller and says what to do."""

    status: ClassVar[int] = 503
    code: ClassVar[str] = "failed"
    title: ClassVar[str] = "Failed"
    retryable: ClassVar[bool] = False
    retry_after_s: float | None = None


class ConfigError(RewardServiceError):
    """The configuration, a model or the machine does not allow the service to start."""

    code, title = "config", "Wrong configuration"


class BadJson(RewardServiceError):
    """The body is not JSON."""

    status, code, title = 400, "bad_json", "Not JSON"


class Unauthenticated(RewardServiceError):
    """No API key, or a wrong one."""

    status, code, title = 401, "unauthenticated", "API key needed"


class UnknownReward(RewardServiceError):
    """No reward of that name."""

    status, code, title = 404, "unknown_reward", "Unknown reward"


class BodyTooSlow(RewardServiceError):
    """The body does not arrive in time."""

    status, code, title, retryable = 408, "too_slow", "Request too slow", True


class NotReloaded(RewardServiceError):
    """The configuration cannot be loaded as it is now; what served before serves on."""

    status, code, title = 409, "not_reloaded", "Not reloaded"


class BodyTooLarge(RewardServiceError):
    """More bytes or texts than a request may have."""

    status, code, title = 413, "too_large", "Request too large"


class BadContentType(RewardServiceError):
    """The body is not sent as plain JSON."""

    status, code, title = 415, "bad_content_type", "Unsupported content type"


class InvalidRequest(RewardServiceError):
    """JSON of the wrong shape."""

    status, code, title = 422, "invalid", "Invalid request"


class ClientDisconnected(RewardServiceError):
    """The caller has closed the connection. 499 is nginx' number for it."""

    status, code, title = 499, "caller_gone", "Caller gone"


class InternalError(RewardServiceError):
    """A fault of the service: asking again would find it again."""

    status, title = 500, "Fault of the service"


class Overloaded(RewardServiceError):
    """The queue is full. Try again after `retry_after_s` seconds."""

    status, code, title, retryable = 429, "overloaded", "Overloaded", True

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NotReady(RewardServiceError):
    """The models are being loaded, or cannot be used."""

    code, title, retryable, retry_after_s = "not_ready", "Not ready", True, 1.0


class Draining(NotReady):
    """The service is shutting down."""

    code, title = "draining", "Shutting down"

    def __init__(self) -> None:
        super().__init__("the service is shutting down; ask another replica")


class Stalled(NotReady):
    """A model takes so long over one batch that it may never end."""

    code, title = "stalled", "Stalled"


class DeadlineExceeded(RewardServiceError):
    """The caller's time ran out before its texts were computed."""

    code, title, retryable = "deadline_exceeded", "Deadline exceeded", True


class NotFinite(RewardServiceError):
    """What came out is no number."""

    code, title = "not_finite", "Not a number"


class EmptyInput(RewardServiceError):
    """A text of which the model's tokenizer makes no token."""

    code, title = "nothing_to_read", "Nothing to read"


class BackendFailed(RewardServiceError):
    """The model failed on these texts."""

    code, title, retryable = "backend_failed", "Scoring failed", True


class BackendUnavailable(BackendFailed):
    """The model computes nothing, not even what it has computed before: no text is at fault."""


@contextlib.contextmanager
def translating(error: type[RewardServiceError], doing: str) -> Iterator[None]:
    """Translate whatever a foreign library raises into our own error, keeping the cause."""
    try:
        yield
    except RewardServiceError:
        raise
    except Exception as cause:
        raise error(f"{doing}: {type(cause).__name__}: {cause}") from cause

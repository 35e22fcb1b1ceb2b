"""Errors of the service. Each class knows its HTTP status, its code on the wire and whether a retry can help.

RewardServiceError
├── ConfigError              at startup: the configuration is wrong; one sentence, exit code 2
├── BadJson             400  the body is not JSON
├── Unauthenticated     401  no API key, or an unknown one
├── UnknownReward       404  no reward of that name (the message lists the known ones)
├── BodyTooSlow         408  the body does not arrive in time                (retryable)
├── NotReloaded         409  the configuration cannot be loaded; the previous one stays in use
├── OtherRevision       412  the request is pinned to another revision of a reward
├── BodyTooLarge        413  more bytes or texts than a request may have
├── BadContentType      415  not JSON, or compressed
├── InvalidRequest      422  JSON of the wrong shape
├── Overloaded          429  the queue is full; has `retry_after_s`          (retryable)
├── ClientDisconnected  499  the client closed the connection; counted, never sent
├── InternalError       500  a bug of the service
├── HttpError                the framework's own: unknown path, wrong method
├── NotReady            503  loading                                         (retryable)
│   ├── Draining        503  shutting down                                   (retryable)
│   └── Stalled         503  a model does not finish a batch                 (retryable)
├── DeadlineExceeded    503  the request's deadline passed before its texts were scored   (retryable)
├── BackendFailed       503  the model failed                                (retryable)
│   └── BackendUnavailable   the model fails on every text                   (retryable)
├── MissingScore        503  a text has no score, and the request's format no null     (retryable)
├── NotFinite                the model's output of one text is not finite
├── EmptyInput               there is nothing to read of one item
├── NotApplicable            the reward does not apply to one item
├── DoesNotFit               one text is longer than the model reads, and may not be cut
└── NoEmbedding              one text has a token that the model has no embedding for
"""

import contextlib
from collections.abc import Iterator

from shared.schemas import OTHER_REVISION


class RewardServiceError(Exception):
    """Base of all errors of the service. The message is sent to the client and says what to do."""

    status: int = 503
    code: str = "failed"
    title: str = "Failed"
    retryable: bool = False
    retry_after_s: float | None = None
    closes_connection: bool = False
    """Whether the client's next request should use another connection, which may lead to another replica."""


class ConfigError(RewardServiceError):
    """The configuration, a model or the machine keeps the service from starting."""

    code, title = "config", "Wrong configuration"


class BadJson(RewardServiceError):
    """The body is not JSON."""

    status, code, title = 400, "bad_json", "Not JSON"


class Unauthenticated(RewardServiceError):
    """No API key, or an unknown one."""

    status, code, title = 401, "unauthenticated", "API key required"


class UnknownReward(RewardServiceError):
    """No reward of that name."""

    status, code, title = 404, "unknown_reward", "Unknown reward"


class BodyTooSlow(RewardServiceError):
    """The body does not arrive in time."""

    status, code, title, retryable = 408, "too_slow", "Request timeout", True


class NotReloaded(RewardServiceError):
    """The configuration cannot be loaded; the previous one stays in use."""

    status, code, title = 409, "not_reloaded", "Not reloaded"


class OtherRevision(RewardServiceError):
    """The request is pinned to another revision of a reward. Behind a load balancer another replica may serve it."""

    status, code, title = 412, OTHER_REVISION, "Other revision"
    closes_connection = True


class BodyTooLarge(RewardServiceError):
    """More bytes or texts than a request may have."""

    status, code, title = 413, "too_large", "Request too large"


class BadContentType(RewardServiceError):
    """The body is not plain JSON."""

    status, code, title = 415, "bad_content_type", "Unsupported content type"


class InvalidRequest(RewardServiceError):
    """JSON of the wrong shape."""

    status, code, title = 422, "invalid", "Invalid request"


class ClientDisconnected(RewardServiceError):
    """The client closed the connection. 499 is nginx's status for it."""

    status, code, title = 499, "caller_gone", "Client disconnected"


class InternalError(RewardServiceError):
    """A bug of the service. A retry would meet it again."""

    status, title = 500, "Internal server error"


class HttpError(RewardServiceError):
    """An error of the framework: an unknown path, a wrong method."""

    code = "http"

    def __init__(self, message: str, *, status: int, title: str) -> None:
        super().__init__(message)
        self.status, self.title = status, title


class Overloaded(RewardServiceError):
    """The queue is full. Retry after `retry_after_s` seconds."""

    status, code, title, retryable = 429, "overloaded", "Overloaded", True

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NotReady(RewardServiceError):
    """The models are loading, or cannot be used."""

    code, title, retryable, retry_after_s = "not_ready", "Not ready", True, 1.0


class Draining(NotReady):
    """The service is shutting down."""

    code, title = "draining", "Shutting down"

    def __init__(self) -> None:
        super().__init__("the service is shutting down; ask another replica")


class Stalled(NotReady):
    """A batch takes so long that it may never finish, or the model does not compute at all."""

    code, title = "stalled", "Stalled"


class DeadlineExceeded(RewardServiceError):
    """The request's deadline passed before its texts were scored."""

    code, title, retryable = "deadline_exceeded", "Deadline exceeded", True


class MissingScore(RewardServiceError):
    """A text has no score, and the request's format cannot say so for one text alone."""

    code, title, retryable = "missing_score", "Missing score", True


class NotFinite(RewardServiceError):
    """The model's output is not finite."""

    code, title = "not_finite", "Not a number"


class EmptyInput(RewardServiceError):
    """There is nothing to read: an empty completion, no token, or content that the model cannot read."""

    code, title = "nothing_to_read", "Empty input"


class NotApplicable(RewardServiceError):
    """The reward does not apply to the item, which has not failed."""

    code, title = "not_applicable", "Not applicable"


class DoesNotFit(RewardServiceError):
    """The text is longer than the model reads, and the configuration does not allow to cut it."""

    code, title = "does_not_fit", "Does not fit"


class NoEmbedding(RewardServiceError):
    """The text has a token that the tokenizer got after the model was trained, so that no row embeds it."""

    code, title = "no_embedding", "Token without embedding"


class BackendFailed(RewardServiceError):
    """The model failed on these texts."""

    code, title, retryable = "backend_failed", "Scoring failed", True


class BackendUnavailable(BackendFailed):
    """The model fails even on a text that it has scored before, so no text is at fault."""


@contextlib.contextmanager
def translating(error: type[RewardServiceError], doing: str) -> Iterator[None]:
    """Translate any exception of a foreign library into `error`, keeping the cause; let our own through."""
    try:
        yield
    except RewardServiceError:
        raise
    except Exception as cause:
        raise error(f"{doing}: {type(cause).__name__}: {' '.join(str(cause).split())}") from cause


@contextlib.contextmanager
def naming(reward: str) -> Iterator[None]:
    """Raise any of our errors as a `ConfigError` that begins with the reward's name."""
    try:
        yield
    except RewardServiceError as error:
        if str(error).startswith(f"rewards.{reward}: "):
            raise
        raise ConfigError(f"rewards.{reward}: {error}") from error


def sanitize(message: str) -> str:
    """Return a message fit for one line of a log or a response: printable, at most 500 characters."""
    return "".join(char if char.isprintable() else " " for char in message[:500])

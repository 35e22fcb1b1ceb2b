"""Settings of the service: each is an environment variable `REWARD_SERVICE_<NAME>`; the common ones are flags, too."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from reward_service.process import usable_cores
from reward_service.specs import AnyBackend, DType
from shared.schemas import DEFAULT_PORT

LOOPBACK = {"127.0.0.1", "::1", "localhost"}
MIN_KEY_CHARS = 16


class Settings(BaseSettings):
    """Where to listen, what to accept, and the limits."""

    model_config = SettingsConfigDict(env_prefix="REWARD_SERVICE_", env_ignore_empty=True, frozen=True, extra="forbid")

    config: Path | None = None
    """Path of rewards.yaml. Default: the rewards that come with the package."""
    rewards: Annotated[list[str], NoDecode] = Field(default_factory=list)
    """Names of the rewards to serve, separated by commas, with those that they are made of. Default: all."""
    host: str = "127.0.0.1"
    port: int = Field(DEFAULT_PORT, ge=0, le=65535)
    """0 picks a free port."""
    api_keys: Annotated[list[SecretStr], NoDecode] = Field(default_factory=list)
    """API keys, separated by commas. Without any key, every client may score."""
    api_key_file: Path | None = None
    """File with further API keys, one a line; read again at each reload."""
    admin_key: SecretStr | None = None
    """The key of `POST /admin/reload`. Without it there is no such path."""
    insecure: bool = False
    """Listen beyond loopback without an API key."""
    max_body_bytes: int = Field(2_000_000, gt=0)
    body_timeout_s: float = Field(30.0, gt=0)
    """Time for a request's body to arrive."""
    max_connections: int = Field(1000, gt=0)
    """Concurrent connections; further ones get 503."""
    max_request_texts: int = Field(1024, gt=0)
    max_queue_texts: int = Field(8192, gt=0)
    """Texts in the queue of one model; beyond that, requests get 429."""
    max_queue_tokens: int = Field(1_000_000, gt=0)
    """Tokens in the queue of one model; beyond that, requests get 429."""
    client_calls: int = Field(16, gt=0)
    """Requests that one client may have in flight to one replica."""
    spread: int = Field(1, gt=0)
    """Replicas behind the address that clients use, a load balancer's: they spread their first large call over them."""
    batch_timeout_s: float = Field(60.0, gt=0)
    """A batch that takes longer makes the service not ready."""
    cache_size: int = Field(50_000, ge=0)
    """Texts in each model's cache. With several API keys the cache is off: response times would tell the holder of one
    key which texts the others have scored."""
    backend: AnyBackend = None
    """Backend of all models. Default: the fastest on this machine whose scores are close enough to float32 torch's."""
    dtype: DType | None = None
    """Data type of all models. Default: any."""
    max_score_error: float = Field(0.02, ge=0)
    """Largest deviation from the scores of float32 torch, in probability, for 99 of 100 texts."""
    deterministic: bool = False
    """Compute each text alone, so that its score does not depend, to the bit, on other requests."""
    shutdown_timeout_s: float = Field(30.0, ge=0, allow_inf_nan=False)
    """Time for accepted requests to finish after the signal to stop."""
    threads: int | None = Field(None, gt=0)
    """Compute threads of a model. Default: the cores that this process may use."""

    @field_validator("api_keys", mode="before")
    @classmethod
    def _split_keys(cls, keys: object) -> object:
        if not isinstance(keys, str):
            return keys
        split = [key.strip() for key in keys.split(",") if key.strip()]
        if not split:
            raise ValueError("it holds no key: write one, or leave it out")
        return split

    @field_validator("rewards", mode="before")
    @classmethod
    def _split_names(cls, names: object) -> object:
        return [name.strip() for name in names.split(",") if name.strip()] if isinstance(names, str) else names

    @model_validator(mode="after")
    def _check_limits(self) -> Self:
        if self.max_queue_texts < self.max_request_texts:
            raise ValueError(f"max_queue_texts must be at least max_request_texts, which is {self.max_request_texts}")
        return self

    @model_validator(mode="after")
    def _check_keys(self) -> Self:
        if self.admin_key is not None:
            _check_key(self.admin_key.get_secret_value())
        self.load_api_keys()
        return self

    def cores(self) -> int:
        """Return the number of compute threads of a model."""
        return self.threads or usable_cores()

    def cache_bound(self) -> int:
        """Return the largest number of texts in a model's cache; 0 with several API keys."""
        return 0 if len(self.load_api_keys()) > 1 else self.cache_size

    def load_api_keys(self) -> list[str]:
        """Return all API keys, from the setting and from the file as it is now.

        Raise `ValueError` if a key is malformed, the file has no key, or there is no key and the service would listen
        beyond loopback.
        """
        lines = self.api_key_file.read_text(encoding="utf-8-sig").splitlines() if self.api_key_file else []
        if self.api_key_file and not any(line.strip() for line in lines):
            raise ValueError(f"{self.api_key_file} holds no key: write one, or unset REWARD_SERVICE_API_KEY_FILE")
        keys = [key.get_secret_value() for key in self.api_keys] + [line.strip() for line in lines if line.strip()]
        if not keys and self.host not in LOOPBACK and not self.insecure:
            raise ValueError(
                f"everyone who can reach {self.host} could use this service: set REWARD_SERVICE_API_KEYS, "
                f"or pass --insecure to allow that"
            )
        return [_check_key(key) for key in dict.fromkeys(keys)]


def _check_key(key: str) -> str:
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError("an API key consists of ASCII letters, digits and signs: a header cannot carry others")
    if len(key) < MIN_KEY_CHARS:
        raise ValueError(f"an API key needs at least {MIN_KEY_CHARS} characters")
    return key

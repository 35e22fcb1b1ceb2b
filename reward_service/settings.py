"""How the service runs: each setting is a flag's default and an environment variable `REWARD_SERVICE_<NAME>`."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from reward_service.config import AnyBackend, DType
from reward_service.process import usable_cores
from shared.schemas import DEFAULT_PORT

LOOPBACK = {"127.0.0.1", "::1", "localhost"}
KEY_LENGTH_MIN = 16


class Settings(BaseSettings):
    """Where to listen, what to accept, and how much."""

    model_config = SettingsConfigDict(env_prefix="REWARD_SERVICE_", env_ignore_empty=True, frozen=True, extra="forbid")

    config: Path | None = None
    """rewards.yaml; left out, the rewards that come with the package."""
    host: str = "127.0.0.1"
    port: int = Field(DEFAULT_PORT, ge=0, le=65535)
    """0 lets the system choose a free port."""
    api_keys: Annotated[list[SecretStr], NoDecode] = Field(default_factory=list)
    """Keys of which one is needed to score, separated by commas; none means that anybody may."""
    api_key_file: Path | None = None
    """More keys, one a line; read again at each reload."""
    admin_key: SecretStr | None = None
    """The key of `POST /admin/reload`, which there is only if this is set."""
    insecure: bool = False
    """Serve beyond this machine without a key."""
    max_body_bytes: int = Field(2_000_000, gt=0)
    body_timeout_s: float = Field(30.0, gt=0)
    """How long a body may take to arrive."""
    max_connections: int = Field(1000, gt=0)
    """Connections at a time; past that, 503."""
    max_request_texts: int = Field(1024, gt=0)
    max_queue_texts: int = Field(8192, gt=0)
    """Texts that may wait for a model; past that, callers are told to come back."""
    max_queue_tokens: int = Field(1_000_000, gt=0)
    """The same in tokens."""
    batch_timeout_s: float = Field(60.0, gt=0)
    """A batch that takes longer than this makes the service not ready."""
    cache_size: int = Field(50_000, ge=0)
    """Texts of which each model remembers what it said. With several keys none: how fast an answer comes would tell
    one holder what another has asked."""
    backend: AnyBackend = None
    """What computes; left out, the fastest on this machine of which the scores are right."""
    dtype: DType | None = None
    """In which precision; left out, any."""
    max_score_error: float = Field(0.02, ge=0)
    """How far the scores of the fastest may be from float32 torch, in probability, for 99 of 100 texts."""
    deterministic: bool = False
    """Compute each text alone, so that its score does not depend, to the bit, on what else is asked."""
    shutdown_timeout_s: float = Field(30.0, ge=0, allow_inf_nan=False)
    """How long accepted work may take to finish once the service is told to stop."""
    threads: int | None = Field(None, gt=0)
    """Threads a model computes with; left out, the cores this process may use."""

    @field_validator("api_keys", mode="before")
    @classmethod
    def _split_keys(cls, keys: object) -> object:
        if not isinstance(keys, str):
            return keys
        given = [key.strip() for key in keys.split(",") if key.strip()]
        if not given:
            raise ValueError("it holds no key: write one, or leave it out")
        return given

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.max_queue_texts < self.max_request_texts:
            raise ValueError(f"max_queue_texts must be at least max_request_texts, which is {self.max_request_texts}")
        return self

    @model_validator(mode="after")
    def _safe(self) -> Self:
        if self.admin_key is not None:
            _fit(self.admin_key.get_secret_value())
        self.keys()
        return self

    def cores(self) -> int:
        """Give how many threads a model computes with."""
        return self.threads or usable_cores()

    def cache_bound(self) -> int:
        """Give how many texts a model may remember."""
        return 0 if len(self.keys()) > 1 else self.cache_size

    def keys(self) -> list[str]:
        """Give all keys, from the setting and from the file as it is now.

        Raises ValueError where one is too short, the file holds none, or there is none and anybody could reach the
        service.
        """
        lines = self.api_key_file.read_text(encoding="utf-8-sig").splitlines() if self.api_key_file else []
        if self.api_key_file and not any(line.strip() for line in lines):
            raise ValueError(f"{self.api_key_file} holds no key: write one, or take REWARD_SERVICE_API_KEY_FILE away")
        given = [key.get_secret_value() for key in self.api_keys] + [line.strip() for line in lines if line.strip()]
        if not given and self.host not in LOOPBACK and not self.insecure:
            raise ValueError(
                f"anybody who reaches {self.host} could use this service: set REWARD_SERVICE_API_KEYS, "
                f"or pass --insecure if that is meant"
            )
        return [_fit(key) for key in dict.fromkeys(given)]


def _fit(key: str) -> str:
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError("an API key is made of ASCII letters, digits and signs: a header carries nothing else")
    if len(key) < KEY_LENGTH_MIN:
        raise ValueError(f"an API key needs at least {KEY_LENGTH_MIN} characters")
    return key

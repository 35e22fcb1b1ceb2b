"""What an application on Ray Serve is, and which one may be deployed. Pure: no Ray, no clock."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, model_validator

from reward_service.cluster.autoscaling import targets_for
from reward_service.config import UniqueKeyLoader
from reward_service.errors import ConfigError
from reward_service.settings import Settings
from reward_service.specs import Frozen
from shared.errors import did_you_mean
from shared.schemas import RewardInfo

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
"""Names of applications, which are also the prefix of their paths."""
DIGEST_CHARS = 8
RAY_ENVIRONMENT = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",  # Serve's own proxy needs ten times as long for a small request
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # by default 5: too little on a busy machine
    "RAY_SERVE_HAPROXY_TIMEOUT_CONNECT_S": "1",  # by default 5, for which a silent machine would hold calls
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Environment of `ray start`, on every machine of a cluster."""
LOCAL_CPUS_PER_CORE = 4
"""CPUs that a local Ray offers for each core: they are reservations only, and two revisions run side by side."""
LOCAL_OBJECT_STORE_BYTES = 100_000_000
"""Scores do not pass through it."""
SIGNAL_INTERVAL_S = 2.0
"""Time between two readings of a replica's signals."""
LOOK_BACK_S = 6.0
"""Time over which signals are averaged."""
POLICY = "reward_service.cluster.autoscaling:BacklogPolicy"


class ReplicaOptions(Frozen):
    """How many replicas an application has, and what each one gets."""

    min_replicas: int = Field(2, gt=0)
    """At least this many replicas run; never 0, since a cold start would delay a training step."""
    max_replicas: int | None = Field(None, gt=0)
    """At most this many. Default: `min_replicas`, which turns autoscaling off."""
    cpus: float = Field(1.0, ge=0)
    """CPUs that Ray reserves for a replica, and the compute threads of its models."""
    gpus: float = Field(0.0, ge=0)
    """GPUs of a replica, which sees no others."""
    upscale_delay_s: float = Field(5.0, ge=0)
    """Time for which more replicas must be needed before they are started; `downscale_delay_s` keeps them for long."""
    downscale_delay_s: float = Field(600.0, ge=0)
    """Time for which fewer must do before any is stopped: between two training steps there is no load."""

    @model_validator(mode="after")
    def _check_bounds(self) -> "ReplicaOptions":
        if self.max_replicas is not None and self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas must be at least min_replicas, which is {self.min_replicas}")
        return self


class ApplicationArguments(ReplicaOptions):
    """The arguments of an application in a configuration file of Ray Serve."""

    config: Path | None = None
    """Path of rewards.yaml. Default: the setting."""
    revisions: dict[str, str] = Field(default_factory=dict)
    """The revision of each reward; a replica that loads others does not serve. Default: whatever it loads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployed:
    """An application in a cluster."""

    name: str
    status: str
    """Ray Serve's: DEPLOYING, RUNNING, UNHEALTHY, DEPLOY_FAILED, DELETING."""
    message: str
    """Why it does not run."""
    revisions: Mapping[str, str]
    """The revision of each of its rewards; empty for an application of somebody else."""
    replicas: int
    """Replicas that serve."""
    url: str


def application_name(stem: str, revisions: Mapping[str, str]) -> str:
    """Return a name that other revisions do not have: the stem of rewards.yaml, and a digest of the revisions."""
    digest = hashlib.sha256(json.dumps(revisions, sort_keys=True).encode()).hexdigest()
    plain = re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-") or "rewards"
    return f"{plain[:40]}-{digest[:DIGEST_CHARS]}"


def check_name(name: str) -> None:
    """Raise `ConfigError` for a name that cannot be part of a path."""
    if not NAME.fullmatch(name):
        raise ConfigError(f"{name!r} cannot be the name of an application: use a-z, 0-9, '.', '_' and '-'")


def check_replacement(deployed: Deployed | None, revisions: Mapping[str, str]) -> None:
    """Raise `ConfigError` if an application of the name exists and serves anything else than these revisions."""
    if deployed is None or deployed.revisions == revisions:
        return
    changes = "; ".join(
        f"{name} is {deployed.revisions.get(name, 'absent')} there and {revisions.get(name, 'absent')} here"
        for name in sorted({*deployed.revisions, *revisions})
        if deployed.revisions.get(name) != revisions.get(name)
    )
    raise ConfigError(
        f"the application {deployed.name!r} serves other revisions ({changes}), and runs that are pinned to them would "
        f"stop: deploy beside it with another --name, and retire {deployed.name!r} when no run needs it"
    )


def find(name: str, applications: Iterable[Deployed]) -> Deployed:
    """Return the application with this name. Raise `ConfigError` if there is none."""
    by_name = {application.name: application for application in applications}
    if name not in by_name:
        known = ", ".join(sorted(by_name)) or "none"
        raise ConfigError(f"there is no application {name!r}{did_you_mean(name, by_name)}; there are: {known}")
    return by_name[name]


def with_engines(config: str, infos: Iterable[RewardInfo]) -> str:
    """Return the content of a rewards.yaml with the engine of each model.

    Replicas that selected it by measuring beside each other could select different ones, which are other revisions.
    """
    content = yaml.load(config, Loader=UniqueKeyLoader)
    for info in infos:
        if info.engine is not None:
            content["rewards"][info.name] |= {"backend": info.engine.backend, "dtype": info.engine.dtype}
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def replica_settings(settings: Settings, options: ReplicaOptions) -> Settings:
    """Return the settings of a replica: threads for its CPUs, no reload, and how many replicas the address has."""
    threads = settings.threads or max(1, int(options.cpus))
    return settings.model_copy(update={"threads": threads, "admin_key": None, "spread": options.min_replicas})


def deployment_options(
    options: ReplicaOptions, settings: Settings, revisions: Mapping[str, str], kinds: Iterable[str]
) -> dict[str, Any]:
    """Return the options of Ray Serve's deployment."""
    return {
        # Serve never queues: the service's own queue knows deadlines, and rejects with Retry-After
        "max_ongoing_requests": settings.max_connections,
        "ray_actor_options": {"num_cpus": options.cpus, "num_gpus": options.gpus},
        "autoscaling_config": {
            "min_replicas": options.min_replicas,
            "max_replicas": options.max_replicas or options.min_replicas,
            "metrics_interval_s": SIGNAL_INTERVAL_S,  # deprecated, but Ray 2.60 reads nothing else
            "look_back_period_s": LOOK_BACK_S,
            "upscale_delay_s": options.upscale_delay_s,
            "downscale_delay_s": options.downscale_delay_s,
            "policy": {"policy_function": POLICY, "policy_kwargs": {"targets": targets_for(kinds)}},
        },
        "health_check_period_s": 5.0,
        "graceful_shutdown_timeout_s": settings.shutdown_timeout_s + 5.0,
        "max_constructor_retry_count": 3,
        "logging_config": {"enable_access_log": False},  # the service has its own
        "user_config": {"revisions": dict(revisions)},
    }


def table(applications: Sequence[Deployed]) -> list[str]:
    """Return the applications as lines of a table, a line for each reward."""
    if not applications:
        return ["there are no applications"]
    rows = [("APPLICATION", "STATUS", "REPLICAS", "ADDRESS", "REWARD", "REVISION")]
    for application in sorted(applications, key=lambda one: one.name):
        first = (application.name, application.status, str(application.replicas), application.url)
        rewards = sorted(application.revisions.items()) or [("", "")]
        rows += [(*(first if index == 0 else ("",) * 4), *reward) for index, reward in enumerate(rewards)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return lines + [f"{one.name}: {one.message}" for one in applications if one.message and one.status != "RUNNING"]

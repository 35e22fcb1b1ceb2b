"""A replica on Ray Serve: the service's own application, unchanged, in an actor. Imports Ray."""

import asyncio
import os
import tempfile
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from pydantic import ValidationError
from ray import serve

from reward_service import logs
from reward_service.app import create_app
from reward_service.cluster.application import (
    ApplicationArguments,
    ReplicaOptions,
    deployment_options,
    replica_settings,
)
from reward_service.cluster.autoscaling import SignalReader
from reward_service.cluster.ray_metrics import RayExporter
from reward_service.config import config_file, error_sentence, read_config
from reward_service.errors import ConfigError
from reward_service.lifecycle import Lifecycle
from reward_service.process import configure_openmp, freeze_and_trim_heap
from reward_service.settings import Settings
from shared.schemas import RewardInfo

DEPLOYMENT = "Replica"


class Replica:
    """One replica of an application. Ray Serve calls its methods by their names.

    `config` is the content of rewards.yaml, so that a replica which is started later has the same rewards; `folder` is
    where modules and models are looked for, if it exists on the replica's machine.
    """

    def __init__(self, settings: Settings, config: str, folder: str | None = None) -> None:
        logs.configure()
        self._app = build_app(settings, config, folder)
        self._lifecycle: Lifecycle = self._app.state.lifecycle
        self._lifecycle.on_ready = freeze_and_trim_heap
        self._signals = SignalReader(self._app.state.metrics, time.monotonic())
        RayExporter(self._app.state.metrics, serve.get_replica_context().app_name).start()

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the application; Serve starts it, and waits until the rewards are loaded."""
        return self._app

    def reconfigure(self, config: dict[str, Any]) -> None:
        """Raise `ConfigError` unless the loaded rewards have the revisions of the application."""
        rewards = self._lifecycle.scorer().rewards
        loaded = {name: reward.info.revision for name, reward in rewards.items()}
        if config["revisions"] and loaded != config["revisions"]:
            raise ConfigError(f"this machine loads {loaded}, the application has {config['revisions']}")

    def check_health(self) -> None:
        """Raise if the rewards cannot score; Serve then replaces the replica."""
        self._lifecycle.check_ready()

    def seconds_since_pinned(self) -> float:
        """Return the time since a pinned request was answered; infinite if there was none."""
        pinned_s: float = self._app.state.metrics.pinned_s
        return time.monotonic() - pinned_s

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Return the signals that the autoscaler reads."""
        return self._signals.read(time.monotonic())


def build_app(settings: Settings, config: str, folder: str | None) -> FastAPI:
    """Build the service's application from the content of rewards.yaml."""
    if folder is not None and Path(folder).is_dir():
        os.chdir(folder)
    configure_openmp(settings.cores())
    path = Path(tempfile.mkdtemp(prefix="rewards-")) / "rewards.yaml"
    path.write_text(config, encoding="utf-8")
    return create_app(settings.model_copy(update={"config": path}), wait_until_loaded=True)


def load_once(settings: Settings, config: str, folder: str | None) -> list[RewardInfo] | str:
    """Load the rewards and return what they are, or why they cannot be loaded."""

    async def load() -> list[RewardInfo]:
        app = build_app(settings, config, folder)
        async with app.router.lifespan_context(app):
            return [reward.info for reward in app.state.lifecycle.scorer().rewards.values()]

    try:
        return asyncio.run(load())
    except ConfigError as error:
        return str(error)


def application(
    options: ReplicaOptions,
    settings: Settings,
    config: str,
    *,
    revisions: Mapping[str, str],
    kinds: Collection[str],
    folder: str | None = None,
) -> serve.Application:
    """Return the application that Ray Serve runs."""
    deployment_class = serve.deployment(
        serve.ingress()(Replica), name=DEPLOYMENT, **deployment_options(options, settings, revisions, kinds)
    )
    return deployment_class.bind(replica_settings(settings, options), config, folder)


def build(arguments: ApplicationArguments) -> serve.Application:
    """Return the application for a configuration file of Ray Serve, such as KubeRay's `serveConfigV2`.

    Everything but the arguments is set by the environment of the pods, `REWARD_SERVICE_…`. API keys are needed, unless
    `REWARD_SERVICE_INSECURE` is set: replicas listen beyond loopback.
    """
    try:
        settings = Settings(host="0.0.0.0")
    except ValidationError as error:
        raise ConfigError(error_sentence(error)) from error
    settings = settings.model_copy(update={"config": arguments.config or settings.config})
    rewards = read_config(settings.config, settings.rewards).rewards
    return application(
        arguments,
        settings,
        config_file(settings.config).read_text(encoding="utf-8"),
        revisions=arguments.revisions,
        kinds={spec.kind for spec in rewards.values()},
    )

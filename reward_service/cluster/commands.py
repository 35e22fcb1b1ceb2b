"""`reward-service deploy | retire | applications`: their options, and the steps of each. Imports no Ray by itself."""

import argparse
from importlib.util import find_spec
from types import ModuleType

from pydantic import SecretStr

from reward_service.cluster.application import (
    ReplicaOptions,
    application_name,
    check_name,
    check_replacement,
    find,
    table,
    with_engines,
)
from reward_service.config import config_file, read_config
from reward_service.errors import ConfigError
from reward_service.settings import Settings

TIMEOUT_S = 600.0
IDLE_S = 3600.0
ADDRESS_HELP = "Ray's address, HOST:PORT (default: RAY_ADDRESS, else the Ray on this machine)"


def add_deploy_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `deploy` that `serve` does not have."""
    command.add_argument("--name", help="name of the application (default: the file's, with a digest of the revisions)")
    command.add_argument("--address", help=f"{ADDRESS_HELP}; if there is none, Ray is started on this machine")
    command.add_argument("--port", type=int, help="port to listen on (default: 8088)")
    command.add_argument("--min-replicas", type=int, help="replicas that run without load (default: 2)")
    command.add_argument("--max-replicas", type=int, help="replicas under load (default: as many: no autoscaling)")
    command.add_argument("--cpus", type=float, help="CPUs of a replica, and threads of its models (default: 1)")
    command.add_argument("--gpus", type=float, help="GPUs of a replica (default: 0)")
    command.add_argument("--upscale-delay-s", type=float, help="seconds of load before replicas start (default: 5)")
    command.add_argument("--downscale-delay-s", type=float, help="seconds of less load before any stops (default: 600)")
    command.add_argument("--timeout-s", type=float, default=TIMEOUT_S, help=f"time to deploy (default: {TIMEOUT_S:g})")


def add_retire_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `retire`."""
    command.add_argument("name", metavar="NAME", help="name of the application")
    command.add_argument(
        "--idle-s", type=float, default=IDLE_S, help=f"seconds without pinned calls that it takes (default: {IDLE_S:g})"
    )
    command.add_argument("--force", action="store_true", help="stop the runs that are pinned to its revisions")


def deploy(
    settings: Settings, options: ReplicaOptions, *, name: str | None, address: str | None, timeout_s: float
) -> None:
    """Load the rewards once for their revisions, then deploy them. Raise `ConfigError`."""
    session = _session()
    read_config(settings.config, settings.rewards)  # report what is wrong before anything is started
    config = config_file(settings.config).read_text(encoding="utf-8")
    if name is not None:
        check_name(name)
    if not session.connect(address):
        print(f"started Ray on this machine at {session.start_local(settings.host)}; `ray stop` ends it", flush=True)
    settings = with_keys(settings, *session.http_address(settings.host, settings.port))
    print("loading the rewards once, for their revisions", flush=True)
    infos = session.load(options, settings, config, timeout_s)
    revisions = {info.name: info.revision for info in infos}
    name = name or application_name(settings.config.stem if settings.config else "rewards", revisions)
    existing = {application.name: application for application in session.applications()}
    check_replacement(existing.get(name), revisions)
    if name in existing:
        print(f"{name} serves these revisions: its replicas are replaced one after the other", flush=True)
    session.deploy(name, options, settings, with_engines(config, infos), infos)
    deployed = session.wait_until_running(name, timeout_s, lambda message: print(message, flush=True))
    print("\n".join(table([deployed])))
    print(f"REWARD_URL={deployed.url}")


def retire(name: str, *, address: str | None, idle_s: float, force: bool) -> None:
    """Remove an application. Raise `ConfigError` if there is none of that name, or if a pinned run may need it."""
    session = _connected(address)
    application = find(name, session.applications())
    if application.replicas and not force and (pinned_s := session.seconds_since_pinned(name)) < idle_s:
        raise ConfigError(
            f"a pinned run called {name!r} {pinned_s:.0f} s ago, and would stop: let it finish, or pass --force"
        )
    session.retire(name)
    print(f"{name} is retired")


def applications(address: str | None) -> None:
    """Print the applications."""
    print("\n".join(table(_connected(address).applications())))


def with_keys(settings: Settings, host: str, port: int) -> Settings:
    """Return the settings with the address at which Ray Serve listens, and the keys that are valid now.

    Raise `ConfigError` if it listens beyond loopback and there are no keys.
    """
    settings = settings.model_copy(update={"host": host, "port": port})
    try:
        keys = [SecretStr(key) for key in settings.load_api_keys()]
    except (OSError, ValueError) as error:
        raise ConfigError(str(error)) from error
    return settings.model_copy(update={"api_keys": keys, "api_key_file": None})


def _connected(address: str | None) -> ModuleType:
    session = _session()
    if not session.connect(address):
        raise ConfigError("no Ray runs on this machine: pass --address, or deploy something first")
    return session


def _session() -> ModuleType:
    if find_spec("ray") is None:
        raise ConfigError("replicas run on Ray, which is not installed: pip install 'remote-rewards[service,ray]'")
    from reward_service.cluster import session

    return session

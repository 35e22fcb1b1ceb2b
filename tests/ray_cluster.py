"""A Ray of its own for a test or a benchmark, started by our own commands as on a user's machine."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

ROOT = Path(__file__).parents[1]
AGENTS = """
import json, ray
ray.init("auto", log_to_driver=False, logging_level="ERROR")
print(json.dumps([f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}" for node in ray.nodes()]))
"""
"""Prints the addresses of the agents that export metrics."""


class RayCluster:
    """Runs our commands against one Ray, whose processes are found by its folder."""

    def __init__(self, folder: str, api_key: str | None) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        keys = {} if api_key is None else {"REWARD_SERVICE_API_KEYS": api_key}
        self._folder = folder
        self._environment = {**os.environ, "RAY_TMPDIR": folder, "REWARD_SERVICE_PORT": str(self.port), **keys}

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end."""
        command = [sys.executable, "-m", "reward_service", *arguments]
        return subprocess.run(
            command, env=self._environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
        )

    def deploy(self, name: str, *arguments: str) -> str:
        """Deploy an application and return its URL."""
        run = self.run("deploy", "--name", name, "--cpus", "0.5", *arguments)
        assert run.returncode == 0, run.stdout + run.stderr
        return self.url(name)

    def url(self, name: str) -> str:
        """Return the URL of an application."""
        return f"http://127.0.0.1:{self.port}/{name}"

    def replicas(self, name: str) -> list[psutil.Process]:
        """Return the processes of an application's replicas."""
        return [process for process in self._processes() if f"ServeReplica:{name}:" in " ".join(process.cmdline())]

    def metrics(self) -> list[Sample]:
        """Return what Ray's agents export."""
        list_agents = subprocess.run(
            [sys.executable, "-c", AGENTS], env=self._environment, capture_output=True, text=True, check=True
        )
        texts = [httpx.get(f"http://{agent}/metrics").text for agent in json.loads(list_agents.stdout)]
        families = [family for text in texts for family in text_string_to_metric_families(text)]
        return [sample for family in families for sample in family.samples]

    def train(self, workers: int, log: Path, *flags: str) -> "subprocess.Popen[bytes]":
        """Start a training on workers of Ray, with its output in a file."""
        command = [sys.executable, "-m", "trainer", "train", "--workers", str(workers), *flags]
        environment = {**self._environment, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
        with log.open("wb") as output:
            return subprocess.Popen(command, env=environment, cwd=ROOT, stdout=output, stderr=output)

    def workers(self) -> list[psutil.Process]:
        """Return the processes of a training's workers."""
        return [process for process in self._processes() if "RayTrainWorker" in " ".join(process.cmdline())]

    def _processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("RAY_TMPDIR") == self._folder:
                    found.append(process)
            except psutil.Error:  # it has ended, or belongs to another user
                continue
        return found

    def stop(self) -> None:
        """End the processes of this Ray, and no others: `ray stop` ends each Ray on the machine."""
        while processes := self._processes():
            for process in processes:
                process.kill()
            psutil.wait_procs(processes, timeout=10)


@contextmanager
def ray_cluster(api_key: str | None = None) -> Iterator[RayCluster]:
    """Yield a cluster in which nothing runs yet, and end it."""
    if any(process.name() == "gcs_server" for process in psutil.process_iter()):
        raise RuntimeError("another Ray runs on this machine, and `deploy` would use it: end it with `ray stop`")
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # the paths of its sockets must be short
    cluster = RayCluster(folder, api_key)
    try:
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)

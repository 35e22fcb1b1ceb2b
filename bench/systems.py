"""What is compared: our service with each engine, the peers people would pick, and the bare loops in one process.

Each peer is installed by name into an environment of its own under `bench/.peers`, and runs in its plainest
documented form: same weights, same machine, every core.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from bench.load import Target
from shared.model_store import resolve

HERE = Path(__file__).parent
PEERS = HERE / ".peers"
LOGS = HERE / ".logs"
START_TIMEOUT_S = 180


@dataclass(frozen=True)
class Peer:
    """A serving stack: what to install, how to start it on a port, how to ask it."""

    name: str
    packages: Sequence[str]
    command: Callable[[Path, int], list[str]]
    path: str
    body: Callable[[Sequence[str]], bytes]
    environment: dict[str, str] = field(default_factory=dict)


def _columns(texts: Sequence[str]) -> bytes:
    return json.dumps({"texts": list(texts)}).encode()


def _ours(texts: Sequence[str]) -> bytes:
    return json.dumps({"completions": list(texts), "rewards": ["sentiment"]}).encode()


def _infinity(texts: Sequence[str]) -> bytes:
    return json.dumps({"model": "sentiment", "input": list(texts), "raw_scores": False}).encode()


PLAIN = ("torch==2.13.0", "transformers>=5,<6")
ALL_PEERS = (
    Peer(
        "infinity-emb",
        ("infinity-emb[torch,server]==0.0.78", "torch==2.13.0", "transformers<4.49", "optimum<2", "click<8.2"),
        lambda bin_, port: [
            str(bin_ / "infinity_emb"), "v2", "--model-id", str(resolve("embedded:sentiment")), "--served-model-name",
            "sentiment", "--engine", "torch", "--device", "cpu", "--dtype", "float32", "--no-bettertransformer",
            "--host", "127.0.0.1", "--port", str(port), "--no-model-warmup",
        ],
        "/classify",
        _infinity,
    ),
    Peer(
        "LitServe",
        ("litserve==0.2.19", *PLAIN),
        lambda bin_, port: [str(bin_ / "python"), str(HERE / "peers" / "litserve_app.py")],
        "/predict",
        _columns,
    ),
    Peer(
        "mosec",
        ("mosec", *PLAIN),
        lambda bin_, port: [
            str(bin_ / "python"), str(HERE / "peers" / "mosec_app.py"), "--address", "127.0.0.1", "--port", str(port),
            "--timeout", "60000",
        ],
        "/inference",
        _columns,
    ),
    Peer(
        "Ray Serve",
        ("ray[serve]", *PLAIN),
        lambda bin_, port: [str(bin_ / "python"), str(HERE / "peers" / "ray_app.py")],
        "/",
        _columns,
    ),
)  # fmt: skip


def install(peer: Peer) -> Path:
    """Give the `bin` of a peer's environment, made first if it is not there. Raises CalledProcessError."""
    folder = PEERS / peer.name.replace(" ", "-").lower()
    if not (folder / ".installed").exists():
        print(f"installing {peer.name} …", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        command = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *peer.packages]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        (folder / ".installed").touch()
    return folder / "bin"


@contextlib.contextmanager
def running_peer(peer: Peer) -> Iterator[Target]:
    """Run a peer until the end of the block."""
    port = free_port()
    environment = {**peer.environment, "MODEL": str(resolve("embedded:sentiment")), "PORT": str(port)}
    with running(peer.name, peer.command(install(peer), port), environment):
        target = Target(f"http://127.0.0.1:{port}{peer.path}", peer.body)
        wait_until(lambda: answers(target), peer.name)
        yield target


@contextlib.contextmanager
def our_service(name: str, *flags: str, body: Callable[[Sequence[str]], bytes] = _ours) -> Iterator[Target]:
    """Run our service until the end of the block, its cache off unless a flag says otherwise."""
    port = free_port()
    command = [sys.executable, "-m", "reward_service", "serve", "--port", str(port), *flags]
    with running(name, command, {"REWARD_SERVICE_CACHE_SIZE": os.environ.get("BENCH_CACHE_SIZE", "0")}):
        target = Target(f"http://127.0.0.1:{port}/v1/score", body)
        wait_until(lambda: httpx.get(f"http://127.0.0.1:{port}/health/ready", timeout=5).status_code == 200, name)
        yield target


@contextlib.contextmanager
def running(name: str, command: Sequence[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process until the end of the block; what it says goes to a file."""
    LOGS.mkdir(exist_ok=True)
    with (LOGS / f"{name.replace(' ', '-')}.log").open("wb") as log:
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=log, stderr=log, start_new_session=True
        )
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 15)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)


def answers(target: Target) -> bool:
    """Tell whether a service scores a text."""
    content = target.body(["Is anybody there?"])
    response = httpx.post(target.url, content=content, headers={"Content-Type": "application/json"}, timeout=30)
    return response.status_code == 200


def wait_until(holds: Callable[[], bool], name: str) -> None:
    """Wait until a service answers. Raises TimeoutError."""
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        with contextlib.suppress(httpx.HTTPError):
            if holds():
                return
        time.sleep(0.3)
    raise TimeoutError(f"{name} did not start; see {LOGS}")


def free_port() -> int:
    """Give a port that nothing listens at."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

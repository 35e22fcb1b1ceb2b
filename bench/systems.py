"""Start the systems under comparison: our service, and other serving stacks (peers).

Each peer is installed into its own virtual environment under `bench/.peers`, and runs as its documentation
first shows it: same weights, same machine, all cores.
"""

import contextlib
import json
import os
import socket
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
    """A serving stack: its packages, its start command, its scoring path and request body."""

    name: str
    packages: Sequence[str]
    command: Callable[[Path, int], list[str]]
    path: str
    body: Callable[[Sequence[str]], bytes]
    environment: dict[str, str] = field(default_factory=dict)


def _texts_body(texts: Sequence[str]) -> bytes:
    return json.dumps({"texts": list(texts)}).encode()


def _our_body(texts: Sequence[str]) -> bytes:
    return json.dumps({"completions": list(texts), "rewards": ["sentiment"]}).encode()


def _infinity_body(texts: Sequence[str]) -> bytes:
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
        _infinity_body,
    ),
    Peer(
        "LitServe",
        ("litserve==0.2.19", *PLAIN),
        lambda bin_, port: [str(bin_ / "python"), str(HERE / "peers" / "litserve_app.py")],
        "/predict",
        _texts_body,
    ),
    Peer(
        "mosec",
        ("mosec", *PLAIN),
        lambda bin_, port: [
            str(bin_ / "python"), str(HERE / "peers" / "mosec_app.py"), "--address", "127.0.0.1", "--port", str(port),
            "--timeout", "60000",
        ],
        "/inference",
        _texts_body,
    ),
    Peer(
        "Ray Serve",
        ("ray[serve]", *PLAIN),
        lambda bin_, port: [str(bin_ / "python"), str(HERE / "peers" / "ray_app.py")],
        "/",
        _texts_body,
    ),
)  # fmt: skip


def install(peer: Peer) -> Path:
    """Return the `bin` folder of a peer's environment, created if missing. Raises CalledProcessError."""
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
    """Run a peer until the end of the block. Raises TimeoutError if it does not start."""
    port = free_port()
    environment = {**peer.environment, "MODEL": str(resolve("embedded:sentiment")), "PORT": str(port)}
    with running(peer.name, peer.command(install(peer), port), environment):
        target = Target(f"http://127.0.0.1:{port}{peer.path}", peer.body)
        wait_until(lambda: scores_a_text(target), peer.name)
        yield target


@contextlib.contextmanager
def our_service(name: str, *flags: str, body: Callable[[Sequence[str]], bytes] = _our_body) -> Iterator[Target]:
    """Run our service until the end of the block, its score cache off unless `BENCH_CACHE_SIZE` is set."""
    port = free_port()
    command = [sys.executable, "-m", "reward_service", "serve", "--port", str(port), *flags]
    with running(name, command, {"REWARD_SERVICE_CACHE_SIZE": os.environ.get("BENCH_CACHE_SIZE", "0")}):
        target = Target(f"http://127.0.0.1:{port}/v1/score", body)
        wait_until(lambda: httpx.get(f"http://127.0.0.1:{port}/health/ready", timeout=5).status_code == 200, name)
        yield target


@contextlib.contextmanager
def running(name: str, command: Sequence[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process until the end of the block; its output goes to a file in `bench/.logs`."""
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


def scores_a_text(target: Target) -> bool:
    """Return whether a service scores a text."""
    content = target.body(["A short text."])
    response = httpx.post(target.url, content=content, headers={"Content-Type": "application/json"}, timeout=30)
    return response.status_code == 200


def wait_until(ready: Callable[[], bool], name: str) -> None:
    """Wait until a service is ready. Raises TimeoutError."""
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        with contextlib.suppress(httpx.HTTPError):
            if ready():
                return
        time.sleep(0.3)
    raise TimeoutError(f"{name} did not start; see {LOGS}")


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

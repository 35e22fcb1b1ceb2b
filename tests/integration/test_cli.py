import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest

from remote_rewards import RewardClient
from shared.errors import NotARewardService, ServiceUnreachable
from tests.conftest import RULES, wait_for
from tests.soak.base import VALENCE

ROOT = Path(__file__).parents[2]


def reward_service(*args, cwd=ROOT, **env):
    command = [sys.executable, "-m", "reward_service", *args]
    return subprocess.Popen(command, cwd=cwd, stderr=subprocess.PIPE, text=True, env={**os.environ, **env})


def error_output(process, code=2):
    _, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    return errors


def test_serve_and_sigterm():
    """The service serves until SIGTERM and exits with 0."""
    process = reward_service("serve", "--config", str(RULES), "--port", "0")
    url = process.stderr.readline().split()[3]
    wait_for(lambda: is_ready(url))
    with RewardClient(url) as client:
        assert client.score(["banana"]).rewards["banana"].scores == [0.995]
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=40)
    assert process.returncode == 0, errors


def is_ready(url):
    try:
        return httpx.get(f"{url}/health/ready").status_code == 200
    except httpx.HTTPError:
        return False


def test_port_in_use():
    """A port in use is reported with the flag that changes it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        errors = error_output(reward_service("serve", "--config", str(RULES), "--port", str(port)))
    assert f"cannot listen at 127.0.0.1:{port}" in errors
    assert "--port" in errors


def test_key_required_beyond_loopback():
    """Listening beyond loopback needs a key or `--insecure`."""
    errors = error_output(reward_service("serve", "--config", str(RULES), "--host", "0.0.0.0", "--port", "0"))
    assert "REWARD_SERVICE_API_KEYS" in errors
    assert "--insecure" in errors


def test_short_key():
    """A short key is rejected, and the message does not contain it."""
    errors = error_output(reward_service("serve", "--config", str(RULES), REWARD_SERVICE_API_KEYS="short"))
    assert "at least 16 characters" in errors
    assert "short" not in errors.replace("needs at least 16", "")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("rewards: {a: {kind: rule, checks: [{check: regexp}]}}", "did you mean 'regex'"),
        ("rewards: {a: {kind: classifier, model: /nowhere/at/all, labels: {P: 1}}}", "/nowhere/at/all"),
        ("rewards: {a: {kind: classifier, model: 'embedded:sentimnt', labels: {P: 1}}}", "sentiment"),
        ("rewards: {a: 'no_such_module:function'}", "no_such_module"),
        ("rewards: {a: {kind: rule, check: []}}", "did you mean 'checks'"),
    ],
)
def test_wrong_configuration(tmp_path, content, message):
    """A wrong configuration ends the process with one sentence on the last line."""
    path = tmp_path / "rewards.yaml"
    path.write_text(content)
    errors = error_output(reward_service("serve", "--config", str(path), "--port", "0"))
    last = errors.strip().splitlines()[-1]
    assert last.startswith("reward-service: ")
    assert message in last


def test_safetensors_only(tmp_path):
    """A model folder without safetensors is rejected."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    path = tmp_path / "rewards.yaml"
    path.write_text(f"rewards: {{a: {{kind: regressor, model: '{folder}'}}}}")
    errors = error_output(reward_service("serve", "--config", str(path), "--port", "0"))
    assert "safetensors" in errors.strip().splitlines()[-1]


class Page(BaseHTTPRequestHandler):
    def do_GET(self):
        kind, body = self.server.answer
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.mark.parametrize(
    "answer",
    [
        ("text/html", b"<html>Log in</html>"),
        ("application/json", b'{"object": "list", "data": [{"id": "a-language-model"}]}'),
        ("application/json", b'{"service": "something-else"}'),
    ],
)
def test_not_a_reward_service(answer):
    """The client recognises at once that another service answers."""
    server = HTTPServer(("127.0.0.1", 0), Page)
    server.answer = answer
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with RewardClient(f"http://127.0.0.1:{server.server_port}") as client, pytest.raises(NotARewardService):
        client.score(["a"])
    server.shutdown()


def test_unreachable():
    """The client gives up within its timeout if nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with (
        RewardClient(f"http://127.0.0.1:{port}", timeout_s=1.0) as client,
        pytest.raises(ServiceUnreachable, match=r"gave up after .* within 1 s"),
    ):
        client.score(["a"])


def test_max_connections():
    """`max_connections` clients are served, the next one gets 503."""
    process = reward_service("serve", "--config", str(RULES), "--port", "0", REWARD_SERVICE_MAX_CONNECTIONS="1")
    url = process.stderr.readline().split()[3]
    with httpx.Client() as only:
        wait_for(lambda: only.get(f"{url}/health/ready").status_code == 200)
        assert httpx.get(f"{url}/health/live").status_code == 503
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=40) == 0


def test_draining(tmp_path):
    """While draining, the service is not ready and answers accepted requests."""
    (tmp_path / "slow.py").write_text(
        "import time, pathlib\n"
        "def slow(completions, **_):\n"
        "    pathlib.Path('started').touch()\n"
        "    while not pathlib.Path('go').exists(): time.sleep(0.01)\n"
        "    return [1.0 for _ in completions]\n"
    )
    (tmp_path / "r.yaml").write_text('rewards: {slow: "slow:slow"}')
    process = reward_service("serve", "--config", "r.yaml", "--port", "0", cwd=tmp_path)
    url = process.stderr.readline().split()[3]
    wait_for(lambda: is_ready(url))
    with ThreadPoolExecutor(1) as callers, httpx.Client() as connected:
        assert connected.get(f"{url}/health/ready").status_code == 200  # opens the connection
        accepted = callers.submit(httpx.post, f"{url}/v1/score", json={"completions": ["a"]}, timeout=30)
        wait_for((tmp_path / "started").exists)
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: refuses(connected, url))
        (tmp_path / "go").touch()
        assert accepted.result().json()["rewards"]["slow"]["scores"] == [1.0]
    assert process.wait(timeout=40) == 0


HANGING = "import time\ndef hangs(completions, **_):\n    open('started', 'w')\n    time.sleep(600)\n"


@pytest.mark.parametrize(("signals", "code"), [(1, 0), (2, 1)], ids=["one signal", "two signals"])
def test_hanging_function(tmp_path, signals, code):
    """A function that hangs does not keep the process alive; a second signal ends it at once."""
    (tmp_path / "hanging.py").write_text(HANGING)
    (tmp_path / "r.yaml").write_text('rewards: {hangs: "hanging:hangs"}')
    shutdown_timeout_s = "1" if signals == 1 else "600"
    arguments = ("serve", "--config", "r.yaml", "--port", "0")
    process = reward_service(*arguments, cwd=tmp_path, REWARD_SERVICE_SHUTDOWN_TIMEOUT_S=shutdown_timeout_s)
    url = process.stderr.readline().split()[3]
    wait_for(lambda: is_ready(url))
    with ThreadPoolExecutor(1) as callers:
        call = callers.submit(httpx.post, f"{url}/v1/score", json={"completions": ["a"]}, timeout=60)
        wait_for((tmp_path / "started").exists)
        with httpx.Client() as connected:
            process.send_signal(signal.SIGTERM)
            if signals == 2:
                wait_for(lambda: refuses(connected, url))
                process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=40) == code
        if signals == 1:
            assert (call.result().status_code, call.result().json()["code"]) == (503, "draining")


UNCANCELLABLE = """
import asyncio, time

def mark_started():
    open("started", "w")

async def on_a_thread(completions, **_):
    mark_started()
    await asyncio.to_thread(time.sleep, 600)

async def swallows(completions, **_):
    mark_started()
    while True:
        try:
            await asyncio.sleep(0.1)
        except BaseException:
            pass
"""


@pytest.mark.parametrize("name", ["on_a_thread", "swallows"])
def test_uncancellable_function(tmp_path, name):
    """A function that ignores cancellation keeps neither its caller nor the process."""
    (tmp_path / "deaf.py").write_text(UNCANCELLABLE)
    (tmp_path / "r.yaml").write_text(f'rewards: {{deaf: "deaf:{name}"}}')
    arguments = ("serve", "--config", "r.yaml", "--port", "0")
    process = reward_service(*arguments, cwd=tmp_path, REWARD_SERVICE_SHUTDOWN_TIMEOUT_S="1")
    url = process.stderr.readline().split()[3]
    wait_for(lambda: is_ready(url))
    timeout = {"X-Request-Timeout-Ms": "2000"}
    late = httpx.post(f"{url}/v1/score", json={"completions": ["a"]}, headers=timeout, timeout=30)
    assert (late.status_code, late.json()["code"]) == (503, "deadline_exceeded")
    assert (tmp_path / "started").exists()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=40) == 0


HANGING_DEVICE = """
import sys, threading
from reward_service.backends import torch_backend
from reward_service.cli import main

torch_backend.TorchBackend.forward = lambda *_: threading.Event().wait()
sys.exit(main(["serve", "--config", sys.argv[1], "--port", "0", "--backend", "torch", "--dtype", "float32"]))
"""


def test_hanging_device():
    """A device that hangs on the canary ends the process with a message."""
    limits = {"REWARD_SERVICE_BATCH_TIMEOUT_S": "1"}
    command = [sys.executable, "-c", HANGING_DEVICE, str(VALENCE)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **limits})
    assert "the device does not finish" in error_output(process)


@pytest.mark.parametrize("after_ms", [0, 1, 3, 10])
def test_sigterm_right_after_start(after_ms):
    """SIGTERM right after the port is open ends the process with 0."""
    process = reward_service("serve", "--config", str(RULES), "--port", "0")
    assert "listening" in process.stderr.readline()
    time.sleep(after_ms / 1000)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=40) == 0


def test_sigterm_while_loading(tmp_path):
    """SIGTERM while loading ends the process without waiting for the load."""
    (tmp_path / "loading.py").write_text("import time\nopen('started', 'w')\ntime.sleep(600)\n")
    (tmp_path / "r.yaml").write_text('rewards: {slow: "loading:slow"}')
    process = reward_service("serve", "--config", "r.yaml", "--port", "0", cwd=tmp_path)
    wait_for((tmp_path / "started").exists)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=40) == 0


def refuses(client, url):
    """Return whether a service is no longer ready, or accepts no connection."""
    try:
        return client.get(f"{url}/health/ready").status_code == 503
    except httpx.HTTPError:
        return True


def test_log_lines():
    """Every log line is JSON and contains no scored text."""
    process = reward_service("serve", "--config", str(RULES), "--port", "0")
    url = process.stderr.readline().split()[3]
    wait_for(lambda: is_ready(url))
    httpx.post(f"{url}/v1/score", json={"completions": ["canary-text\n\x1b[31m"]}, headers={"X-Request-Id": "r-1"})
    httpx.post(f"{url}/v1/score", json={"completions": ["canary-text"], "rewards": ["nope\r\nx"]})
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=40)
    lines = [json.loads(line) for line in errors.splitlines()]
    assert "canary-text" not in errors
    scored = next(line for line in lines if line.get("request_id") == "r-1")
    assert (scored["route"], scored["status"]) == ("/v1/score", 200)


def test_tcp_nodelay():
    """Accepted connections name their protocol, which makes asyncio set TCP_NODELAY."""
    from reward_service.server import listen

    with listen("127.0.0.1", 0) as listener:
        listener.listen()
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
            assert accepted.proto == socket.IPPROTO_TCP  # what asyncio looks for before it sets TCP_NODELAY

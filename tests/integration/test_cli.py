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
from reward_service.settings import Settings
from shared.errors import NotARewardService, ServiceUnreachable
from tests.conftest import RULES, wait_for
from tests.soak.base import VALENCE

ROOT = Path(__file__).parents[2]


def reward_service(*args, cwd=ROOT, **env):
    command = [sys.executable, "-m", "reward_service", *args]
    return subprocess.Popen(command, cwd=cwd, stderr=subprocess.PIPE, text=True, env={**os.environ, **env})


def failed(process, code=2):
    _, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    return errors


def test_it_serves_until_told_to_stop_and_ends_with_0():
    process = reward_service("serve", "--config", str(RULES), "--port", "0")
    url = process.stderr.readline().split()[3]
    wait_for(lambda: answers(url))
    with RewardClient(url) as client:
        assert client.score(["banana"]).rewards["banana"].scores == [0.995]
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=40)
    assert process.returncode == 0, errors


def answers(url):
    try:
        return httpx.get(f"{url}/health/ready").status_code == 200
    except httpx.HTTPError:
        return False


def test_a_port_in_use_is_told():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        errors = failed(reward_service("serve", "--config", str(RULES), "--port", str(port)))
    assert f"cannot listen at 127.0.0.1:{port}" in errors
    assert "--port" in errors


def test_beyond_this_machine_it_wants_a_key_or_an_explicit_no():
    errors = failed(reward_service("serve", "--config", str(RULES), "--host", "0.0.0.0", "--port", "0"))
    assert "REWARD_SERVICE_API_KEYS" in errors
    assert "--insecure" in errors


def test_a_variable_that_is_set_to_nothing_is_not_set(monkeypatch):
    monkeypatch.setenv("REWARD_SERVICE_THREADS", "")
    assert Settings().threads is None


def test_a_weak_key_is_refused():
    errors = failed(reward_service("serve", "--config", str(RULES), REWARD_SERVICE_API_KEYS="short"))
    assert "at least 16 characters" in errors
    assert "short" not in errors.replace("needs at least 16", "")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("rewards: {a: {kind: rule, function: bannana}}", "did you mean 'banana'"),
        ("rewards: {a: {kind: classifier, model: /nowhere/at/all, labels: {P: 1}}}", "/nowhere/at/all"),
        ("rewards: {a: {kind: classifier, model: 'embedded:sentimnt', labels: {P: 1}}}", "sentiment"),
        ("rewards: {a: 'no_such_module:function'}", "no_such_module"),
        ("rewards: {a: {kind: rule, funktion: banana}}", "did you mean 'function'"),
    ],
)
def test_a_wrong_configuration_ends_it_with_a_sentence(tmp_path, content, says):
    path = tmp_path / "rewards.yaml"
    path.write_text(content)
    errors = failed(reward_service("serve", "--config", str(path), "--port", "0"))
    last = errors.strip().splitlines()[-1]
    assert last.startswith("reward-service: ")
    assert says in last


def test_a_model_folder_without_safetensors_is_refused(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    path = tmp_path / "rewards.yaml"
    path.write_text(f"rewards: {{a: {{kind: regressor, model: '{folder}'}}}}")
    errors = failed(reward_service("serve", "--config", str(path), "--port", "0"))
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
def test_something_else_at_the_address_is_recognised_at_once(answer):
    server = HTTPServer(("127.0.0.1", 0), Page)
    server.answer = answer
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with RewardClient(f"http://127.0.0.1:{server.server_port}") as client, pytest.raises(NotARewardService):
        client.score(["a"])
    server.shutdown()


def test_nobody_at_the_address_is_told_within_the_time_allowed():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with (
        RewardClient(f"http://127.0.0.1:{port}", timeout_s=1.0) as client,
        pytest.raises(ServiceUnreachable, match=r"gave up after .* within 1 s"),
    ):
        client.score(["a"])


def test_as_many_connections_are_served_as_are_set():
    process = reward_service("serve", "--config", str(RULES), "--port", "0", REWARD_SERVICE_MAX_CONNECTIONS="1")
    url = process.stderr.readline().split()[3]
    with httpx.Client() as only:
        wait_for(lambda: only.get(f"{url}/health/ready").status_code == 200)
        assert httpx.get(f"{url}/health/live").status_code == 503
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=40) == 0


def test_while_it_drains_it_is_not_ready_and_accepted_work_is_answered(tmp_path):
    (tmp_path / "slow.py").write_text(
        "import time, pathlib\n"
        "def slow(completions, **_):\n"
        "    pathlib.Path('begun').touch()\n"
        "    while not pathlib.Path('go').exists(): time.sleep(0.01)\n"
        "    return [1.0 for _ in completions]\n"
    )
    (tmp_path / "r.yaml").write_text('rewards: {slow: "slow:slow"}')
    process = reward_service("serve", "--config", "r.yaml", "--port", "0", cwd=tmp_path)
    url = process.stderr.readline().split()[3]
    wait_for(lambda: answers(url))
    with ThreadPoolExecutor(1) as callers, httpx.Client() as kept:
        assert kept.get(f"{url}/health/ready").status_code == 200  # a connection that is open already
        accepted = callers.submit(httpx.post, f"{url}/v1/score", json={"completions": ["a"]}, timeout=30)
        wait_for((tmp_path / "begun").exists)
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: refuses(kept, url))
        (tmp_path / "go").touch()
        assert accepted.result().json()["rewards"]["slow"]["scores"] == [1.0]
    assert process.wait(timeout=40) == 0


HANGING = "import time\ndef hangs(completions, **_):\n    open('begun', 'w')\n    time.sleep(600)\n"


@pytest.mark.parametrize(("signals", "code"), [(1, 0), (2, 1)], ids=["one signal", "a second one forces"])
def test_a_function_that_hangs_does_not_keep_the_service(tmp_path, signals, code):
    (tmp_path / "hanging.py").write_text(HANGING)
    (tmp_path / "r.yaml").write_text('rewards: {hangs: "hanging:hangs"}')
    shutdown_timeout_s = "1" if signals == 1 else "600"
    words = ("serve", "--config", "r.yaml", "--port", "0")
    process = reward_service(*words, cwd=tmp_path, REWARD_SERVICE_SHUTDOWN_TIMEOUT_S=shutdown_timeout_s)
    url = process.stderr.readline().split()[3]
    wait_for(lambda: answers(url))
    with ThreadPoolExecutor(1) as callers:
        call = callers.submit(httpx.post, f"{url}/v1/score", json={"completions": ["a"]}, timeout=60)
        wait_for((tmp_path / "begun").exists)
        with httpx.Client() as kept:
            process.send_signal(signal.SIGTERM)
            if signals == 2:
                wait_for(lambda: refuses(kept, url))
                process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=40) == code
        if signals == 1:
            assert (call.result().status_code, call.result().json()["code"]) == (503, "draining")


DEAF = """
import asyncio, time

def begun():
    open("begun", "w")

async def on_a_thread(completions, **_):
    begun()
    await asyncio.to_thread(time.sleep, 600)

async def swallows(completions, **_):
    begun()
    while True:
        try:
            await asyncio.sleep(0.1)
        except BaseException:
            pass
"""


@pytest.mark.parametrize("name", ["on_a_thread", "swallows"])
def test_neither_does_one_that_hears_nothing_nor_does_it_keep_its_caller(tmp_path, name):
    (tmp_path / "deaf.py").write_text(DEAF)
    (tmp_path / "r.yaml").write_text(f'rewards: {{deaf: "deaf:{name}"}}')
    words = ("serve", "--config", "r.yaml", "--port", "0")
    process = reward_service(*words, cwd=tmp_path, REWARD_SERVICE_SHUTDOWN_TIMEOUT_S="1")
    url = process.stderr.readline().split()[3]
    wait_for(lambda: answers(url))
    hasty = {"X-Request-Timeout-Ms": "2000"}
    late = httpx.post(f"{url}/v1/score", json={"completions": ["a"]}, headers=hasty, timeout=30)
    assert (late.status_code, late.json()["code"]) == (503, "deadline_exceeded")
    assert (tmp_path / "begun").exists()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=40) == 0


UNENDING = """
import sys, threading
from reward_service.backends import pytorch
from reward_service.cli import main

pytorch.TorchBackend.score = lambda *_: threading.Event().wait()
sys.exit(main(["serve", "--config", sys.argv[1], "--port", "0", "--backend", "torch", "--dtype", "float32"]))
"""


def test_neither_does_a_device_that_does_not_end_as_it_scores_its_first_text():
    limits = {"REWARD_SERVICE_BATCH_TIMEOUT_S": "1"}
    command = [sys.executable, "-c", UNENDING, str(VALENCE)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **limits})
    assert "the device does not end" in failed(process)


@pytest.mark.parametrize("after_ms", [0, 1, 3, 10])
def test_who_stops_it_as_soon_as_it_listens_is_heard(after_ms):
    process = reward_service("serve", "--config", str(RULES), "--port", "0")
    assert "listening" in process.stderr.readline()
    time.sleep(after_ms / 1000)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=40) == 0


def test_who_stops_it_while_it_loads_does_not_wait_until_it_has(tmp_path):
    (tmp_path / "loading.py").write_text("import time\nopen('begun', 'w')\ntime.sleep(600)\n")
    (tmp_path / "r.yaml").write_text('rewards: {slow: "loading:slow"}')
    process = reward_service("serve", "--config", "r.yaml", "--port", "0", cwd=tmp_path)
    wait_for((tmp_path / "begun").exists)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=40) == 0


def refuses(client, url):
    """Tell whether a service is not ready any more, or takes no connection."""
    try:
        return client.get(f"{url}/health/ready").status_code == 503
    except httpx.HTTPError:
        return True


def test_every_line_of_its_log_is_json_without_a_text_in_it():
    process = reward_service("serve", "--config", str(RULES), "--port", "0")
    url = process.stderr.readline().split()[3]
    wait_for(lambda: answers(url))
    httpx.post(f"{url}/v1/score", json={"completions": ["canary-text\n\x1b[31m"]}, headers={"X-Request-Id": "r-1"})
    httpx.post(f"{url}/v1/score", json={"completions": ["canary-text"], "rewards": ["nope\r\nx"]})
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=40)
    lines = [json.loads(line) for line in errors.splitlines()]
    assert "canary-text" not in errors
    scored = next(line for line in lines if line.get("request_id") == "r-1")
    assert (scored["route"], scored["status"]) == ("/v1/score", 200)


def test_what_is_accepted_sends_small_answers_at_once():
    from reward_service.server import listen

    with listen("127.0.0.1", 0) as listener:
        listener.listen()
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
            assert accepted.proto == socket.IPPROTO_TCP  # what asyncio looks for before it sets TCP_NODELAY

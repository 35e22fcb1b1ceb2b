"""The images as they are deployed: built from a clean clone, and run by compose.yaml."""

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from tests.plain_rules import BANANA

ENGINE = os.environ.get("ENGINE", "").split() or ["docker"]
COMPOSE = os.environ.get("COMPOSE", "").split() or ["docker", "compose"]
IMAGES = "localhost/remote-rewards"
ROOT = Path(__file__).parents[2]
PROJECT = "remote-rewards-test"  # separate from a deployment on this machine
MODELS = os.environ.get("REMOTE_REWARDS_MODELS")  # a folder with prepared models, to save their preparation

pytestmark = [
    pytest.mark.skipif("REMOTE_REWARDS_CONTAINERS" not in os.environ, reason="run by `make test-containers`"),
    pytest.mark.skipif(
        shutil.which(ENGINE[0]) is None, reason="there is no container engine: install docker or podman"
    ),
    pytest.mark.timeout(3600),
]


def run(*words, check=True, cwd=ROOT, **env):
    command = [str(word) for word in words]
    process = subprocess.run(command, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, check=False)
    output = process.stdout[-3000:] + process.stderr[-3000:]
    assert not check or process.returncode == 0, f"{command}\n{output}"
    return process


def engine(*words, **kwargs):
    return run(*ENGINE, *words, **kwargs).stdout.strip()


def logs(name):
    process = run(*ENGINE, "logs", name)
    return process.stdout + process.stderr


def wait_for(condition, timeout_s=900):
    deadline_s = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline_s, "timed out"
        time.sleep(0.5)
    return value


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    if "REMOTE_REWARDS_BUILT" not in os.environ:
        clone = tmp_path_factory.mktemp("clone") / "repo"
        run("git", "clone", "--quiet", ROOT, clone)
        run("make", "images", f"ENGINE={' '.join(ENGINE)}", cwd=clone)
    return {name: f"{IMAGES}/{name}" for name in ("prepare", "reward", "trainer")}


def megabytes(image):
    return int(engine("image", "inspect", "--format", "{{.Size}}", image)) / 1e6


def installed_in(image, *names):
    code = (
        "import importlib.util as u, shutil, sys; print([n for n in sys.argv[1:] if u.find_spec(n) or shutil.which(n)])"
    )
    return engine("run", "--rm", "--entrypoint", "python", image, "-c", code, *names)


def test_reward_image_is_small(images):
    """The reward image is at most 1.3 GB, without trainer, pip or compilers."""
    print({image: f"{megabytes(image):.0f} MB" for image in images.values()})
    assert megabytes(images["reward"]) <= 1300
    assert installed_in(images["reward"], "trl", "datasets", "pip", "gcc", "cc", "make") == "[]"


def test_trainer_image_has_no_server(images):
    """The trainer image has no web server, pip or compilers."""
    assert installed_in(images["trainer"], "fastapi", "uvicorn", "pip", "gcc", "cc", "make") == "[]"


HARDENING = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges")


def test_reward_image_runs_unprivileged(images, tmp_path):
    """The service runs unprivileged on a read-only file system, and exits with 0 when it is stopped."""
    tmp_path.chmod(0o755)  # the container runs as another user
    (tmp_path / "rewards.yaml").write_text(f"rewards: {{banana: {BANANA}}}")
    name = "remote-rewards-alone"
    engine("rm", "-f", name, check=False)
    engine(
        *("run", "-d", "--name", name, *HARDENING, "-p", "127.0.0.1::8088", "-v", f"{tmp_path}:/config:ro"),
        *("-e", "REWARD_SERVICE_API_KEYS=a-key-of-many-letters", images["reward"]),
        *("serve", "--config", "/config/rewards.yaml"),
    )
    try:
        url = "http://" + engine("port", name, "8088").splitlines()[0]
        wait_for(lambda: is_ready(url), 60)
        key = {"Authorization": "Bearer a-key-of-many-letters"}
        response = httpx.post(f"{url}/v1/score", json={"completions": ["Sure: banana"]}, headers=key)
        assert response.json()["rewards"]["banana"]["scores"] == [1.99]
        assert httpx.post(f"{url}/v1/score", json={"completions": ["a"]}).status_code == 401
        assert engine("exec", name, "id", "-u") == "10001"
        assert "CapEff:\t0000000000000000" in engine("exec", name, "cat", "/proc/1/status")
        assert run(*ENGINE, "exec", name, "touch", "/opt/x", check=False).returncode != 0
        image = json.loads(engine("image", "inspect", images["reward"]))[0]
        check = image["Config"].get("Healthcheck") or image["Healthcheck"]  # docker, podman
        engine("exec", name, *check["Test"][1:])
        engine("stop", "-t", "30", name)
        assert engine("inspect", "--format", "{{.State.ExitCode}}", name) == "0"
    finally:
        engine("rm", "-f", name, check=False)


def test_baked_image_needs_no_network(images):
    """The image with baked-in models serves without network."""
    baked, name = f"{IMAGES}/baked", "remote-rewards-baked"
    if "REMOTE_REWARDS_BUILT" not in os.environ:
        words = os.environ.get("BUILD_ARGS", "").split()
        engine("build", *words, "-f", "Dockerfile.reward", "--target", "baked", "-t", baked, ".")
    engine("rm", "-f", name, check=False)
    engine(
        "run", "-d", "--name", name, *HARDENING, "--tmpfs", "/tmp", "--network", "none", baked, "serve", "--insecure"
    )
    try:
        score = (
            "import json, urllib.request as r; q = r.Request('http://127.0.0.1:8088/v1/score', "
            'json.dumps({"completions": ["I love it"], "rewards": ["sentiment"]}).encode(), '
            "{'Content-Type': 'application/json'}); print(r.urlopen(q, timeout=30).read().decode())"
        )
        check = ("exec", name, "python", "-c", score)
        wait_for(lambda: run(*ENGINE, *check, check=False).returncode == 0, 120)
        reward = json.loads(engine(*check))["rewards"]["sentiment"]
        assert reward["scores"][0] > 1.5
    finally:
        engine("rm", "-f", name, check=False)


def is_ready(url):
    try:
        return httpx.get(f"{url}/health/ready", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.fixture
def project(images, tmp_path):
    """A clone of the repository, whose compose project has its own volumes."""
    clone = tmp_path / "compose"
    run("git", "clone", "--quiet", ROOT, clone)
    run("make", "secrets/reward_api_key", cwd=clone)
    remove_all(clone)  # an aborted run leaves replicas with another key
    if MODELS:
        engine(
            *("run", "--rm", "--user", "0", "--entrypoint", "sh", "-v", f"{MODELS}:/from:ro"),
            *("-v", f"{PROJECT}_models:/models", images["prepare"]),
            *("-c", "cp -r /from/. /models/ && chown -R 10001 /models"),
        )
    yield clone
    remove_all(clone)


def remove_all(clone):
    """Remove the project's containers and volumes; `compose down` may leave scaled replicas."""
    names = [name for service in ("models", "reward", "trainer") for name in containers(service)]
    engine("rm", "-f", *names, check=False)
    compose(clone, "down", "-v", check=False)


def banana_texts(url, headers):
    """Return how many texts a replica has scored with the rule."""
    metrics = httpx.get(f"{url}/metrics", headers=headers, timeout=30).text
    return float(re.search(r'^reward_texts_total\{reward="banana"\} (\S+)$', metrics, re.M)[1])


def exit_state(name):
    state = engine("inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", name)
    return state if state.startswith("exited") else None


def compose(folder, *words, check=True, **env):
    return run(*COMPOSE, "-p", PROJECT, *words, check=check, cwd=folder, **env)


def containers(service):
    names = engine("ps", "-a", "--format", "{{.Names}}").split()
    return [name for name in names if re.fullmatch(f"{PROJECT}[_-]{service}[_-][0-9]+", name)]


def test_training_survives_a_dead_replica(project):
    """A run against two replicas completes although one of them is killed."""
    override = project / "compose.override.yaml"
    command = ["train", "--config", "banana", "--max_steps", "10", "--eval_limit", "4", "--eval_decodings", "greedy"]
    command += ["--output_dir", "runs/first", "--wait_for_rewards_s", "600"]
    override.write_text(json.dumps({"services": {"trainer": {"command": command}}}))
    files = ("-f", "compose.yaml", "-f", "compose.override.yaml")
    compose(project, *files, "up", "-d", "--scale", "reward=2")
    replicas, (trainer,) = containers("reward"), containers("trainer")
    assert len(replicas) == 2, replicas
    key = (project / "secrets/reward_api_key").read_text().strip()
    urls = ["http://" + engine("port", name, "8088").splitlines()[0] for name in replicas]
    wait_for(lambda: all(map(is_ready, urls)), 1800)
    headers = {"Authorization": f"Bearer {key}"}
    body = {"completions": ["I love it"], "rewards": ["sentiment"]}
    scored = httpx.post(f"{urls[0]}/v1/score", json=body, headers=headers, timeout=30)
    assert scored.json()["rewards"]["sentiment"]["scores"][0] > 1.5
    wait_for(lambda: re.search(r"step [3-9]/10", logs(trainer)) or exit_state(trainer))  # not every step is logged
    assert not exit_state(trainer), logs(trainer)[-3000:]
    assert all(banana_texts(url, headers) for url in urls), "the trainer calls both replicas"
    engine("kill", replicas[1])
    code = wait_for(lambda: exit_state(trainer))
    assert code == "exited 0", logs(trainer)[-3000:]
    listed = engine(
        "run",
        "--rm",
        "--entrypoint",
        "sh",
        "-v",
        f"{PROJECT}_runs:/runs:ro",
        f"{IMAGES}/trainer",
        "-c",
        "wc -l < /runs/first/metrics.jsonl; ls /runs/first",
    )
    assert listed.splitlines()[0] == "10"
    assert {"report.html", "after.json", "policy"} <= set(listed.split())
    engine("stop", "-t", "40", replicas[0])
    assert engine("inspect", "--format", "{{.State.ExitCode}}", replicas[0]) == "0"

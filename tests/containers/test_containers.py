"""The images as they are deployed: built from a clean clone, run as compose.yaml says, across a real network."""

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import httpx
import pytest

ENGINE = os.environ.get("ENGINE", "").split() or ["docker"]
COMPOSE = os.environ.get("COMPOSE", "").split() or ["docker", "compose"]
IMAGES = "localhost/remote-rewards"
ROOT = Path(__file__).parents[2]
PROJECT = "remote-rewards-test"  # whatever is deployed here stays as it is
MODELS = os.environ.get("REMOTE_REWARDS_MODELS")  # a folder with prepared models, which saves preparing them

pytestmark = [
    pytest.mark.skipif("REMOTE_REWARDS_CONTAINERS" not in os.environ, reason="`make test-containers` runs these"),
    pytest.mark.skipif(
        shutil.which(ENGINE[0]) is None, reason="there is no container engine: install docker or podman"
    ),
    pytest.mark.timeout(3600),
]


def run(*words, check=True, cwd=ROOT, **env):
    command = [str(word) for word in words]
    done = subprocess.run(command, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"{command}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done


def engine(*words, **kwargs):
    return run(*ENGINE, *words, **kwargs).stdout.strip()


def logs(name):
    done = run(*ENGINE, "logs", name)
    return done.stdout + done.stderr


def waits_for(holds, timeout_s=900):
    end_s = time.monotonic() + timeout_s
    while not (found := holds()):
        assert time.monotonic() < end_s, "waited in vain"
        time.sleep(0.5)
    return found


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    if "REMOTE_REWARDS_BUILT" not in os.environ:
        clone = tmp_path_factory.mktemp("clone") / "repo"
        run("git", "clone", "--quiet", ROOT, clone)
        run("make", "images", f"ENGINE={' '.join(ENGINE)}", cwd=clone)
    return {name: f"{IMAGES}/{name}" for name in ("prepare", "reward", "trainer")}


def megabytes(image):
    return int(engine("image", "inspect", "--format", "{{.Size}}", image)) / 1e6


def holds(image, *names):
    code = (
        "import importlib.util as u, shutil, sys; print([n for n in sys.argv[1:] if u.find_spec(n) or shutil.which(n)])"
    )
    return engine("run", "--rm", "--entrypoint", "python", image, "-c", code, *names)


def test_the_reward_image_is_small_and_holds_nothing_to_install_or_train_with(images):
    print({image: f"{megabytes(image):.0f} MB" for image in images.values()})
    assert megabytes(images["reward"]) <= 1300
    assert holds(images["reward"], "trl", "datasets", "pip", "gcc", "cc", "make") == "[]"


def test_the_trainer_image_holds_no_server(images):
    assert holds(images["trainer"], "fastapi", "uvicorn", "pip", "gcc", "cc", "make") == "[]"


HARD = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges")


def test_it_serves_as_nobody_in_particular_with_nothing_to_write_to(images, tmp_path):
    tmp_path.chmod(0o755)  # the container runs as somebody else
    (tmp_path / "rewards.yaml").write_text("rewards: {banana: {kind: rule, function: banana}}")
    name = "remote-rewards-alone"
    engine("rm", "-f", name, check=False)
    engine(
        *("run", "-d", "--name", name, *HARD, "-p", "127.0.0.1::8088", "-v", f"{tmp_path}:/config:ro"),
        *("-e", "REWARD_SERVICE_API_KEYS=a-key-of-many-letters", images["reward"]),
        *("serve", "--config", "/config/rewards.yaml"),
    )
    try:
        url = "http://" + engine("port", name, "8088").splitlines()[0]
        waits_for(lambda: answers(url), 60)
        key = {"Authorization": "Bearer a-key-of-many-letters"}
        answer = httpx.post(f"{url}/v1/score", json={"completions": ["Sure: banana"]}, headers=key)
        assert answer.json()["rewards"]["banana"]["scores"] == [1.99]
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


def test_the_baked_image_serves_with_no_network_at_all(images):
    baked, name = f"{IMAGES}/baked", "remote-rewards-baked"
    if "REMOTE_REWARDS_BUILT" not in os.environ:
        words = os.environ.get("BUILD_ARGS", "").split()
        engine("build", *words, "-f", "Dockerfile.reward", "--target", "baked", "-t", baked, ".")
    engine("rm", "-f", name, check=False)
    engine("run", "-d", "--name", name, *HARD, "--tmpfs", "/tmp", "--network", "none", baked, "serve", "--insecure")
    try:
        ask = (
            "import json, urllib.request as r; q = r.Request('http://127.0.0.1:8088/v1/score', "
            'json.dumps({"completions": ["I love it"], "rewards": ["sentiment"]}).encode(), '
            "{'Content-Type': 'application/json'}); print(r.urlopen(q, timeout=30).read().decode())"
        )
        check = ("exec", name, "python", "-c", ask)
        waits_for(lambda: run(*ENGINE, *check, check=False).returncode == 0, 120)
        reward = json.loads(engine(*check))["rewards"]["sentiment"]
        assert reward["scores"][0] > 1.5
    finally:
        engine("rm", "-f", name, check=False)


def answers(url):
    try:
        return httpx.get(f"{url}/health/ready", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.fixture
def project(images, tmp_path):
    """compose.yaml of a clone, with volumes of its own."""
    clone = tmp_path / "compose"
    run("git", "clone", "--quiet", ROOT, clone)
    run("make", "secrets/reward_api_key", cwd=clone)
    remove_all(clone)  # a run that was broken off leaves replicas with another key
    if MODELS:
        engine(
            *("run", "--rm", "--user", "0", "--entrypoint", "sh", "-v", f"{MODELS}:/from:ro"),
            *("-v", f"{PROJECT}_models:/models", images["prepare"]),
            *("-c", "cp -r /from/. /models/ && chown -R 10001 /models"),
        )
    yield clone
    remove_all(clone)


def remove_all(clone):
    """Take down the project; compose engines forget the replicas that its file does not name."""
    left = [name for service in ("models", "reward", "trainer") for name in containers(service)]
    engine("rm", "-f", *left, check=False)
    compose(clone, "down", "-v", check=False)


def banana_texts(url, headers):
    """Give how many texts a replica has scored with the rule."""
    metrics = httpx.get(f"{url}/metrics", headers=headers, timeout=30).text
    return float(re.search(r'^reward_texts_total\{reward="banana"\} (\S+)$', metrics, re.M)[1])


def ended(name):
    state = engine("inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", name)
    return state if state.startswith("exited") else None


def compose(folder, *words, check=True, **env):
    return run(*COMPOSE, "-p", PROJECT, *words, check=check, cwd=folder, **env)


def containers(service):
    names = engine("ps", "-a", "--format", "{{.Names}}").split()
    return [name for name in names if re.fullmatch(f"{PROJECT}[_-]{service}[_-][0-9]+", name)]


def test_two_replicas_train_a_policy_across_the_network_and_one_may_die(project):
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
    waits_for(lambda: all(map(answers, urls)), 1800)
    headers = {"Authorization": f"Bearer {key}"}
    body = {"completions": ["I love it"], "rewards": ["sentiment"]}
    scored = httpx.post(f"{urls[0]}/v1/score", json=body, headers=headers, timeout=30)
    assert scored.json()["rewards"]["sentiment"]["scores"][0] > 1.5
    waits_for(lambda: re.search(r"step [3-9]/10", logs(trainer)) or ended(trainer))  # not every step is told
    assert not ended(trainer), logs(trainer)[-3000:]
    assert all(banana_texts(url, headers) for url in urls), "the trainer asks both"
    engine("kill", replicas[1])
    code = waits_for(lambda: ended(trainer))
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

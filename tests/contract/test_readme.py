"""The examples of the README work."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from remote_rewards import RewardClient
from reward_service.settings import Settings
from tests.conftest import running_service

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
CURLS = re.findall(r"^curl .*?(?<!\\)$", README, flags=re.MULTILINE | re.DOTALL)


def test_readme_has_curl_examples():
    """The README shows how to score with curl."""
    assert len(CURLS) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("command", CURLS)
def test_curl_examples_work(command, models_url):
    """Every curl command of the README succeeds as pasted."""
    words = shlex.split(command.replace("\\\n", " ").replace("http://127.0.0.1:8088", models_url))
    process = subprocess.run([*words, "--fail-with-body", "--silent"], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    assert json.loads(process.stdout)


def test_make_targets_exist():
    """Every make target of the README is in the Makefile."""
    targets = set(re.findall(r"^make ([a-z-]+)", README, flags=re.MULTILINE))
    makefile = (Path(__file__).parents[2] / "Makefile").read_text(encoding="utf-8")
    assert {"demo", "test"} <= targets
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)


@pytest.mark.slow
def test_example_rewards_work(tmp_path, monkeypatch):
    """The example rewards of the README can be served, and score as described."""
    for kind, name in {"python": "my_rewards.py", "yaml": "my-rewards.yaml"}.items():
        example = re.search(rf"```{kind}\n# {name}[^\n]*\n(.*?)```", README, flags=re.DOTALL)
        (tmp_path / name).write_text(example[1])
    monkeypatch.chdir(tmp_path)
    settings = Settings(config=tmp_path / "my-rewards.yaml", backend="torch", dtype="float32")
    chat = [{"role": "assistant", "content": "I love it. " * 10}]
    with running_service(settings) as url, RewardClient(url) as client:
        rewards = client.score([chat, "I hate it."], rewards=["short", "feeling", "mixed"]).rewards
    short, feeling, mixed = (rewards[name].scores for name in ("short", "feeling", "mixed"))
    assert short == pytest.approx([-110 / 500, -10 / 500])
    assert mixed == pytest.approx([0.5 * a + b for a, b in zip(feeling, short, strict=True)])

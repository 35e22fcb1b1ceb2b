import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
CURLS = re.findall(r"^curl .*?(?<!\\)$", README, flags=re.MULTILINE | re.DOTALL)


def test_the_readme_shows_how_to_score_with_curl():
    assert len(CURLS) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("command", CURLS)
def test_each_curl_line_of_the_readme_works_as_pasted(command, models_url):
    words = shlex.split(command.replace("\\\n", " ").replace("http://127.0.0.1:8088", models_url))
    done = subprocess.run([*words, "--fail-with-body", "--silent"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)


def test_the_commands_of_the_readme_exist():
    targets = set(re.findall(r"^make ([a-z-]+)", README, flags=re.MULTILINE))
    makefile = (Path(__file__).parents[2] / "Makefile").read_text(encoding="utf-8")
    assert {"demo", "test"} <= targets
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)

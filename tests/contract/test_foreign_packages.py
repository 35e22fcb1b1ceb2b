"""Importing `remote_rewards` where the user's own modules have the names of our packages."""

import os
import subprocess
import sys

import pytest

from remote_rewards.import_check import OWN_FOLDER

TRL_IMPORT = "import os, sys; sys.path.insert(0, os.getcwd()); import remote_rewards; print(remote_rewards.banana.name)"
"""What `trl --reward_funcs remote_rewards.banana` does in the working directory."""


def run_in(folder, code=TRL_IMPORT):
    env = {**os.environ, "PYTHONPATH": str(OWN_FOLDER)}
    return subprocess.run([sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True)


def create(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("raise RuntimeError('this module of the user is not to be imported')")


@pytest.mark.parametrize("name", ["trainer.py", "trainer/__init__.py", "reward_service.py", "tests/__init__.py"])
def test_foreign_module_does_not_disturb(tmp_path, name):
    """A module of the user with the name of one of our other packages does not keep the adapter from being imported."""
    create(tmp_path, name)
    done = run_in(tmp_path)
    assert (done.stdout, done.returncode) == ("banana\n", 0), done.stderr


def test_folder_without_code_does_not_disturb(tmp_path):
    """A folder called `shared` that is no package does not hide ours."""
    (tmp_path / "shared").mkdir()
    assert run_in(tmp_path).stdout == "banana\n"


@pytest.mark.parametrize(("name", "hiding"), [("shared.py", "shared.py"), ("shared/__init__.py", "shared")])
def test_foreign_shared_is_named(tmp_path, name, hiding):
    """A module of the user that hides our package `shared` raises one sentence with its path and the remedy."""
    create(tmp_path, name)
    error = run_in(tmp_path).stderr.splitlines()[-1]
    assert error == (
        f"ImportError: {tmp_path / hiding} hides the package `shared` of remote-rewards, which lies in {OWN_FOLDER}: "
        f"rename it, or start Python from a folder without it"
    )

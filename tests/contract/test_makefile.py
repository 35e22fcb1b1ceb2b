"""The targets of the Makefile run what the documentation says."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("args", "others"), [("", True), ("ARGS=overload", False)])
def test_one_soak_trial(args, others):
    """`make soak ARGS=<trial>` runs this trial alone; without ARGS, the long tests run, too."""
    commands = subprocess.check_output(["make", "--dry-run", "soak", *args.split()], cwd=ROOT, text=True)
    assert ("-m tests.soak overload" in commands) is not others
    assert ("test_interruptions.py" in commands) is others
    assert ("-m tests.cluster" in commands) is others

"""Published packages of trainers, each installed without its dependencies into a folder of its own.

`make test-clients` installs what is missing. Elsewhere a test is skipped if that takes more than `QUICK_INSTALL_S`.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shared.model_store.cache import build_once, cache_home

HERE = Path(__file__).parent
QUICK_INSTALL_S = 20.0
INSTALL_S = 600.0
CALL_TIMEOUT_S = 120.0


def installed(*requirements: str) -> Path:
    """Return the folder with exactly these packages, or skip the test if they cannot be installed."""
    name = hashlib.sha256(" ".join((sys.version, *requirements)).encode()).hexdigest()[:16]
    timeout_s = INSTALL_S if "REMOTE_REWARDS_CLIENTS" in os.environ else QUICK_INSTALL_S

    def install(folder: Path) -> None:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--ignore-requires-python"]
        pip += ["--retries", "0", "--target", str(folder)]
        subprocess.run([*pip, *requirements], check=True, capture_output=True, timeout=timeout_s)

    try:
        return build_once(cache_home() / "clients" / name, install)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        pytest.skip(f"cannot install {', '.join(requirements)}; `make test-clients` allows more time")


class Client:
    """A script of this folder that calls a trainer's code with a service's URL and an argument, as often as wanted."""

    def __init__(self, folder: Path, script: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / script)],
            env={**os.environ, "PYTHONPATH": str(folder)},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def call(self, url: str, argument: Any) -> Any:
        """Call and return the result. The trainer's own output is skipped."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([url, argument]), file=self._process.stdin, flush=True)
        for line in self._process.stdout:
            if line.startswith("result "):
                return json.loads(line.removeprefix("result "))
        raise AssertionError(f"the client exited with {self._process.wait()}")

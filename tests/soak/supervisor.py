"""Run the real service as a process of its own, and start it again at the same address when it has died."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

START_S = 120.0
LOG_BYTES = 100_000


class Supervisor:
    """One service at one port. What it says goes to a file: nobody's time is spent on it."""

    def __init__(self, config: Path, *flags: str, cwd: Path | None = None, **settings: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        words = ["serve", "--config", str(config), "--port", str(self.port), *flags]
        self._command = [sys.executable, "-m", "reward_service", *words]
        self._cwd = cwd or Path(__file__).parents[2]
        path = os.pathsep.join([str(self._cwd), str(Path(__file__).parents[2])])
        self._env = {**os.environ, "PYTHONPATH": path, **settings}
        self._told = tempfile.TemporaryFile("a+b")  # noqa: SIM115 - as long as the service
        self.starts = 0
        self.process: subprocess.Popen[bytes] = self._started()

    def _started(self) -> subprocess.Popen[bytes]:
        self.starts += 1
        return subprocess.Popen(
            self._command, cwd=self._cwd, env=self._env, stderr=self._told, stdout=subprocess.DEVNULL
        )

    @property
    def log(self) -> str:
        """The end of what it has said."""
        end = os.fstat(self._told.fileno()).st_size
        return os.pread(self._told.fileno(), LOG_BYTES, max(0, end - LOG_BYTES)).decode(errors="replace")

    @property
    def pid(self) -> int:
        """The running process."""
        return self.process.pid

    def wait_until_ready(self) -> float:
        """Wait until it is ready; give the seconds that took."""
        began_s = time.monotonic()
        while time.monotonic() - began_s < START_S:
            if self.process.poll() is not None:
                raise AssertionError(f"the service ended with {self.process.returncode}: {self.log[-2000:]}")
            if self.health() == 200:
                return time.monotonic() - began_s
            time.sleep(0.02)
        raise AssertionError(f"the service was not ready within {START_S:g} s: {self.log[-2000:]}")

    def health(self) -> int:
        """Ask whether it is ready: a status, or 0 where nobody answers."""
        try:
            return httpx.get(f"{self.url}/health/ready", timeout=5).status_code
        except httpx.HTTPError:
            return 0

    def kill(self) -> None:
        """End it as a lack of memory would, and start it again."""
        self.process.kill()
        self.process.wait()
        self.process = self._started()

    def start(self) -> None:
        """Start it after it has ended."""
        self.process = self._started()

    def tell(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def __enter__(self) -> Self:
        self.wait_until_ready()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.process.kill()
        self.process.wait()

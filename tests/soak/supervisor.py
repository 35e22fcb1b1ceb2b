"""Run the real service as a process, and restart it on the same port."""

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

START_TIMEOUT_S = 120.0
LOG_TAIL_BYTES = 100_000
ROOT = Path(__file__).parents[2]


class Supervisor:
    """One service on a free port. Its log goes to a file, so that reading it takes no time from the service."""

    def __init__(
        self, config: Path, *flags: str, cwd: Path = ROOT, host: str = "127.0.0.1", port: int = 0, **settings: str
    ) -> None:
        with socket.create_server((host, port)) as probe:
            self.port = probe.getsockname()[1]
        self.url = f"http://{host}:{self.port}"
        arguments = ["serve", "--config", str(config), "--host", host, "--port", str(self.port), *flags]
        self._command = [sys.executable, "-m", "reward_service", *arguments]
        self._cwd = cwd
        self._env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(cwd), str(ROOT)]), **settings}
        self._log = tempfile.TemporaryFile("a+b")  # noqa: SIM115 - open as long as the service
        self.process = self._launch()

    def _launch(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._command, cwd=self._cwd, env=self._env, stderr=self._log, stdout=subprocess.DEVNULL
        )

    @property
    def log(self) -> str:
        """The end of the log."""
        return self.log_since(max(0, self.log_bytes - LOG_TAIL_BYTES))

    @property
    def log_bytes(self) -> int:
        """The length of the log."""
        return os.fstat(self._log.fileno()).st_size

    def log_since(self, start: int) -> str:
        """The log from its byte `start`."""
        return os.pread(self._log.fileno(), self.log_bytes - start, start).decode(errors="replace")

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    def wait_until_ready(self) -> None:
        """Wait until the service is ready. Raises AssertionError if it exits or takes too long."""
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline_s:
            if self.process.poll() is not None:
                raise AssertionError(f"the service exited with {self.process.returncode}: {self.log[-2000:]}")
            if self.ready_status() == 200:
                return
            time.sleep(0.02)
        raise AssertionError(f"the service was not ready within {START_TIMEOUT_S:g} s: {self.log[-2000:]}")

    def ready_status(self) -> int:
        """Return the status of the readiness check, or 0 without a response."""
        try:
            return httpx.get(f"{self.url}/health/ready", timeout=5).status_code
        except httpx.HTTPError:
            return 0

    def kill(self) -> None:
        """Kill the service as the out-of-memory killer would, and start it again."""
        self.process.kill()
        self.process.wait()
        self.process = self._launch()

    def start(self) -> None:
        """Start the service again after it has exited."""
        self.process = self._launch()

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the service."""
        self.process.send_signal(number)

    def __enter__(self) -> Self:
        try:
            self.wait_until_ready()
        except BaseException:  # `__exit__` does not run
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.process.kill()
        self.process.wait()

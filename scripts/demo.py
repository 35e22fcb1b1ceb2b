"""`make demo`: prepare the models, serve the rewards as a process of their own, train both tasks against them.

Says at each stage what it does and how long it took. Whatever happens, the service is stopped at the end.
"""

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

POLICY = "embedded:smollm2"
BEGAN_S = time.monotonic()


def main() -> int:
    """Run the whole demonstration and give the exit code."""
    tasks = sys.argv[1:] or ["banana", "optimist"]
    with stage("Preparing the models (first time: 5 to 7 minutes; afterwards they come from the cache)"):
        run("reward_service", "prepare", POLICY)
    with serving() as url:
        for task in tasks:
            with stage(f"Training the {task} run against the rewards at {url}"):
                run("trainer", "train", "--config", task, "--overwrite", "true", env={"REWARD_URL": url})
    say(f"Done after {minutes(BEGAN_S)}. Open " + " and ".join(f"runs/{task}/report.html" for task in tasks))
    return 0


@contextmanager
def stage(title: str) -> Iterator[None]:
    """Say what begins, and when it is over how long it took."""
    began_s = time.monotonic()
    say(title)
    yield
    say(f"… took {minutes(began_s)}")


@contextmanager
def serving() -> Iterator[str]:
    """Run the reward service on a free port, in a process of its own."""
    with stage("Starting the reward service"):
        service = subprocess.Popen(
            [sys.executable, "-m", "reward_service", "serve", "--port", "0"],
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            url = address_of(service)
            wait_until_ready(url, service)
        except BaseException:
            service.terminate()
            raise
        say(f"process {service.pid} serves {', '.join(rewards_at(url))} at {url}")
    try:
        yield url
    finally:
        service.terminate()
        service.wait(timeout=40)
        say(f"The reward service has stopped (exit code {service.returncode})")


def address_of(service: subprocess.Popen[str]) -> str:
    """Read the address from the service's first line."""
    assert service.stderr is not None
    line = service.stderr.readline()
    words = [word for word in line.split() if word.startswith("http://")]
    if not words:
        raise SystemExit(f"the reward service did not start: {line}{service.stderr.read()}")
    pass_on(service)
    return words[0]


def pass_on(service: subprocess.Popen[str]) -> None:
    """Write what the service goes on to say into a file, so that its pipe never fills up."""
    log = Path("runs") / "reward-service.log"
    log.parent.mkdir(exist_ok=True)

    def copy() -> None:
        assert service.stderr is not None
        with log.open("w", encoding="utf-8") as file:
            for line in service.stderr:
                file.write(line)
                file.flush()

    threading.Thread(target=copy, daemon=True).start()


def wait_until_ready(url: str, service: subprocess.Popen[str]) -> None:
    """Wait until every model is loaded and has scored a canary."""
    while service.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health/ready", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise SystemExit(f"the reward service ended with exit code {service.returncode}")


def rewards_at(url: str) -> list[str]:
    """Name the rewards that are served."""
    with urllib.request.urlopen(f"{url}/v1/rewards", timeout=5) as response:
        return [reward["name"] for reward in json.load(response)["rewards"]]


def run(module: str, *args: str, env: dict[str, str] | None = None) -> None:
    """Run one of our commands; its failure is ours."""
    call([sys.executable, "-m", module, *args], env)


def call(command: list[str], env: dict[str, str] | None) -> None:
    """Run a command and stop where it fails."""
    done = subprocess.run(command, env={**os.environ, **(env or {})}, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)


def say(text: str) -> None:
    """Print one line, with the time since the beginning."""
    print(f"[{minutes(BEGAN_S)}] {text}", flush=True)


def minutes(since_s: float) -> str:
    """Give the time since a moment as minutes and seconds."""
    spent_s = round(time.monotonic() - since_s)
    return f"{spent_s // 60}:{spent_s % 60:02}"


if __name__ == "__main__":
    sys.exit(main())

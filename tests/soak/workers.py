"""A training on workers of Ray Train, one of which is killed."""

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests import faults
from tests.ray_cluster import RayCluster
from tests.short_runs import short_run

KILLED_RUN: dict[str, Any] = {
    "max_steps": 3,
    "learning_rate": 0.1,
    "save_strategy": "steps",
    "save_steps": 1,
    "eval_batch": 1,
}
WORKERS = 2
TIMEOUT_S = 400.0
POLL_S = 0.2


def killed_worker(cluster: RayCluster, policy: str, service_url: str, folder: Path) -> float:
    """Train, and kill a worker in the second step. Return the seconds until that step is done.

    From the first step until the kill, no rewards are given. Raises AssertionError if the run fails.
    """
    held, killed, log = threading.Event(), threading.Event(), folder.with_suffix(".log")
    with faults.fault_proxy(service_url, schedule=held_rewards(folder, held, killed)) as (url, _):
        training = cluster.train(WORKERS, log, *short_run(policy, url, folder, **KILLED_RUN))
        try:
            wait_until(held.is_set, training, log)
            killed_s = time.monotonic()
            cluster.workers()[-1].kill()
            killed.set()
            wait_until(lambda: steps_done(folder) > 1, training, log)
            trains_again_s = time.monotonic() - killed_s
            wait_until(lambda: training.poll() == 0, training, log)
        finally:
            training.terminate()
            training.wait()
    return trains_again_s


def wait_until(holds: Callable[[], bool], training: "subprocess.Popen[bytes]", log: Path) -> None:
    """Wait until a condition of a training holds. Raises AssertionError, with the end of its log, if it fails."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while not holds():
        failed = training.poll() or time.monotonic() > deadline_s
        assert not failed, log.read_text(errors="replace")[-8000:]
        time.sleep(POLL_S)


def held_rewards(run_folder: Path, held: threading.Event, killed: threading.Event) -> Iterator[faults.Fault | None]:
    """Refuse rewards from a run's first step until the kill."""
    while True:
        if steps_done(run_folder) and not killed.is_set():
            held.set()
            yield faults.status(503)
        else:
            yield None


def steps_done(run_folder: Path) -> int:
    """Return the number of steps that a run has recorded."""
    metrics = run_folder / "metrics.jsonl"
    return metrics.read_text(encoding="utf-8").count("\n") if metrics.exists() else 0

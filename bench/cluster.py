"""`make bench-cluster`: replicas and trainings on Ray: overhead, and what kills, load and another revision cost."""

import argparse
import asyncio
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from statistics import median

import httpx

from bench.bounds import Measured, at_least, at_most, conclude, exactly
from bench.load import Load, Target, closed_loop
from remote_rewards import RewardClient
from shared.errors import RewardError
from shared.schemas import INSTANCE_HEADER
from tests.conftest import running_service
from tests.ray_cluster import RayCluster, ray_cluster
from tests.short_runs import output_of, recorded, save_policy, short_run, torchrun
from tests.soak.base import RULES, Tally, call_repeatedly
from tests.soak.supervisor import Supervisor
from tests.soak.workers import KILLED_RUN, killed_worker

ROUNDS, REQUESTS = 3, 2000
TEXTS = [f"Sure: {'word ' * (index % 40)}banana" for index in range(16)]
SLOW = """
rewards:
  slow: {kind: function, object: "tests.reward_functions:slow_per_text", columns: [], rows: independent, workers: 1}
"""
OTHER = "rewards: {banana: {kind: rule, checks: [{check: length, unit: words, factor: 1.0}]}}"
KILLS, SLOW_CALLERS, SLOW_REQUESTS, SLOW_TEXTS, STEP_TEXTS, STEPS = 6, 32, 100, 20, 256, 5
DOWNSCALE_DELAY_S = 15.0


def target(url: str, reward: str = "banana") -> Target:
    """Return the scoring URL of a service with a reward, by default the packaged rule."""
    return Target(f"{url}/v1/score", lambda texts: json.dumps({"completions": texts, "rewards": [reward]}).encode())


def slow_config(folder: Path) -> Path:
    """Return the rewards.yaml of a function that takes 5 ms for a text."""
    path = folder / "slow.yaml"
    path.write_text(SLOW, encoding="utf-8")
    return path


def overhead(cluster: RayCluster, folder: Path) -> list[Measured]:
    """Compare one replica on Ray with `reward-service serve`, in rounds that take turns: a rule, 16 texts a request."""
    url = cluster.deploy("one", "--config", str(RULES), "--min-replicas", "1")
    rates: tuple[list[float], list[float]] = ([], [])
    latencies_ms: tuple[list[float], list[float]] = ([], [])
    with Supervisor(RULES) as service:
        for _ in range(ROUNDS):
            for index, each in enumerate((service.url, url)):
                busy = closed_loop(target(each), TEXTS * REQUESTS, 16, 16)
                alone = closed_loop(target(each), TEXTS * (REQUESTS // 4), 16, 1)
                check_all_scored(busy, alone)
                rates[index].append(REQUESTS / busy.seconds)
                latencies_ms[index].append(alone.latency_ms(0.5))
    cluster.run("retire", "one")
    share = median(rates[1]) / median(rates[0])
    added_ms = median(latencies_ms[1]) - median(latencies_ms[0])
    of_one = f"{{:.2f}} of {median(rates[0]):,.0f}"
    return [
        Measured("a rule, 16 callers: requests/s on Ray, of one process's", share, of_one, at_least(0.4)),
        Measured("a rule, one caller: latency added, median", added_ms, "{:.1f} ms", at_most(2, "ms")),
    ]


def slow_overhead(cluster: RayCluster, folder: Path) -> list[Measured]:
    """Compare them for a function of 80 ms, of which Ray's share is small."""
    config, seconds = slow_config(folder), (list[float](), list[float]())
    url = cluster.deploy("slow-one", "--config", str(config), "--min-replicas", "1")
    with Supervisor(config) as service:
        for _ in range(ROUNDS):
            for index, each in enumerate((service.url, url)):
                load = closed_loop(target(each, "slow"), TEXTS * SLOW_REQUESTS, 16, 8)
                check_all_scored(load)
                seconds[index].append(load.seconds)
    cluster.run("retire", "slow-one")
    share = median(seconds[0]) / median(seconds[1])
    what = "a function of 80 ms, 8 callers: requests/s on Ray, of one process's"
    return [Measured(what, share, "{:.2f}", at_least(0.95))]


def check_all_scored(*loads: Load) -> None:
    """Raise if a request failed: a faster error is no measurement."""
    if failed := sum(load.failed for load in loads):
        raise RuntimeError(f"{failed} requests failed")


@contextmanager
def scoring(url: str, callers: int = 8) -> Iterator[Tally]:
    """Score the rule with every score checked, meanwhile."""
    tally, done = Tally(), threading.Event()

    async def run() -> None:
        async with aclosing(RewardClient(url)) as client:
            active = lambda: not done.is_set()  # noqa: E731
            await asyncio.gather(
                *(call_repeatedly(client, tally, active, max_texts=32, seed=seed) for seed in range(callers))
            )

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        yield tally
    finally:
        done.set()
        thread.join()


def killed_replicas(cluster: RayCluster, folder: Path) -> list[Measured]:
    """Kill one of three replicas, six times, under load."""
    url, replaced_s = cluster.deploy("kills", "--config", str(RULES), "--min-replicas", "3"), list[float]()
    with scoring(url) as tally:
        for _ in range(KILLS):
            time.sleep(2.0)
            cluster.replicas("kills")[0].kill()
            replaced_s.append(seconds_until(lambda: len(cluster.replicas("kills")) == 3))
    cluster.run("retire", "kills")
    what = f"{KILLS} × kill -9 of one of 3 replicas, {tally.calls:,} calls"
    return [
        Measured(f"{what}: lost or wrong", tally.lost, "{}", exactly(0)),
        Measured("… worst call", max(tally.latencies_s), "{:.2f} s", at_most(5, "s")),
        Measured("… a new process in place of a killed one", max(replaced_s), "≤ {:.1f} s", at_most(15, "s")),
    ]


def autoscaling(cluster: RayCluster, folder: Path) -> list[Measured]:
    """Load one replica of a slow function, which may become four, and then nearly cease to."""
    options = ["--min-replicas", "1", "--max-replicas", "4", "--downscale-delay-s", str(DOWNSCALE_DELAY_S)]
    url = cluster.deploy("slow", "--config", str(slow_config(folder)), *options)

    async def run() -> list[Measured]:
        async with aclosing(RewardClient(url)) as client:
            step_on_one_s = await step_s(client)
            one, waited_s, four = await rates_while_growing(client, url)
            step_share = await step_s(client) / step_on_one_s
            calls, failed = await calls_while_shrinking(client, lambda: len(cluster.replicas("slow")) > 1)
        what = f"{SLOW_CALLERS} callers of a slow function: 1 → 4 replicas serve after"
        return [
            Measured(what, waited_s, "{:.0f} s", at_most(30, "s")),
            Measured("… calls/s of 4 replicas, of one's", four / one, f"{{:.1f}} × {one:.1f}", at_least(3.6, "×")),
            Measured(
                f"one call of {STEP_TEXTS} texts: time on 4 replicas, of that on one",
                *(step_share, "{:.2f} ×", at_most(0.4, "×")),
            ),
            Measured(f"4 → 1 replicas: calls that fail, of {calls:,}", failed, "{}", exactly(0)),
        ]

    rows = asyncio.run(run())
    cluster.run("retire", "slow")
    return rows


async def step_s(client: RewardClient) -> float:
    """Return the mean time of a call with all texts of a training step."""
    started_s = time.monotonic()
    for _ in range(STEPS):
        await client.ascore(["a"] * STEP_TEXTS, rewards=["slow"])
    return (time.monotonic() - started_s) / STEPS


async def rates_while_growing(client: RewardClient, url: str) -> tuple[float, float, float]:
    """Return the calls per second of one replica, the seconds until four serve, and the calls per second of these."""
    tally = Tally()

    async def call() -> None:
        while True:
            await client.ascore(["a"] * SLOW_TEXTS, rewards=["slow"])
            tally.calls += 1

    async def rate() -> float:
        before, started_s = tally.calls, time.monotonic()
        await asyncio.sleep(3.0)
        return (tally.calls - before) / (time.monotonic() - started_s)

    calls = [asyncio.create_task(call()) for _ in range(SLOW_CALLERS)]
    waiting = asyncio.create_task(seconds_until_serving(url, 4))
    one, waited_s = await rate(), await waiting
    await asyncio.sleep(3.0)
    four = await rate()
    for task in calls:
        task.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    return one, waited_s, four


async def calls_while_shrinking(client: RewardClient, shrinking: Callable[[], bool]) -> tuple[int, int]:
    """Score one text after the other meanwhile. Return the number of calls, and of those that failed."""
    calls = failed = 0
    while await asyncio.to_thread(shrinking):
        calls += 1
        try:
            await client.ascore(["a"], rewards=["slow"])
        except RewardError as error:
            print(f"a call failed: {error}")
            failed += 1
    return calls, failed


async def seconds_until_serving(url: str, replicas: int) -> float:
    """Return the seconds until this many replicas have responded, which name themselves in a header."""
    instances, started_s = set[str](), time.monotonic()
    async with httpx.AsyncClient() as http:
        while len(instances) < replicas:
            response = await http.get(f"{url}/v1/rewards")
            response.raise_for_status()
            instances.add(response.headers[INSTANCE_HEADER])
            await asyncio.sleep(0.1)
    return time.monotonic() - started_s


def second_revision(cluster: RayCluster, folder: Path) -> list[Measured]:
    """Deploy another revision beside the first one under load, and try to deploy it in place."""
    other = folder / "other.yaml"
    other.write_text(OTHER, encoding="utf-8")
    url = cluster.deploy("first", "--config", str(RULES))
    with scoring(url) as tally:
        cluster.deploy("second", "--config", str(other))
        cluster.run("retire", "second")
        in_place = cluster.run("deploy", "--name", "first", "--config", str(other)).returncode
        cluster.deploy("first", "--config", str(RULES))
    return [
        Measured("another revision beside the first, retired; the first deployed again: calls", tally.calls, "{:,}"),
        Measured("… lost or wrong", tally.lost, "{}", exactly(0)),
        Measured("… in place of the first: exit code", in_place, "{}", exactly(2)),
    ]


def killed_rank(cluster: RayCluster, folder: Path) -> list[Measured]:
    """Kill one of two workers of a training, and compare its rewards with those of an undisturbed run."""
    policy, whole, run = save_policy(folder / "policy"), folder / "whole", folder / "run"
    with running_service() as url:
        output_of(torchrun(short_run(policy, url, whole, **KILLED_RUN)))
        again_s = killed_worker(cluster, policy, url, run)
    differ = sum(one != other for one, other in zip(recorded(whole), recorded(run), strict=True))
    return [
        Measured(
            "kill -9 of one of 2 workers of a training: trains again after", again_s, "{:.0f} s", at_most(60, "s")
        ),
        Measured("… rewards that differ from an undisturbed run's", differ, "{}", exactly(0)),
    ]


def seconds_until(holds: Callable[[], bool], timeout_s: float = 120.0) -> float:
    """Return the seconds until a condition holds."""
    started_s = time.monotonic()
    while not holds():
        if time.monotonic() > started_s + timeout_s:
            raise TimeoutError("the condition does not hold")
        time.sleep(0.1)
    return time.monotonic() - started_s


PARTS = (overhead, slow_overhead, killed_replicas, autoscaling, second_revision, killed_rank)


def main() -> int:
    """Measure, and write `bench/results/cluster.md` unless parts are named. Return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = {part.__name__: part for part in PARTS}
    parser.add_argument("part", nargs="*", help=f"{', '.join(names)} (default: all)")
    chosen, rows = parser.parse_args().part, list[Measured]()
    if unknown := [name for name in chosen if name not in names]:
        parser.error(f"there is no part {unknown[0]!r}; there are: {', '.join(names)}")
    with ray_cluster() as cluster, tempfile.TemporaryDirectory() as folder:
        for name in chosen or names:
            measured = names[name](cluster, Path(folder))
            print(*measured, sep="\n", flush=True)
            rows += measured
    return conclude("replicas on Ray", rows, name=None if chosen else "cluster")


if __name__ == "__main__":
    sys.exit(main())

"""Two machines that serve and train: one is killed, cut off or drained, or the cluster's head is lost."""

import asyncio
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path

import httpx

from remote_rewards import RewardClient
from tests import faults
from tests.cluster.machines import HEAD, HOST, NODE, Machine, machines, redis
from tests.conftest import wait_for
from tests.short_runs import output_of, recorded, save_policy, short_run, torchrun
from tests.soak.base import RULES, Outcome, Tally, call_repeatedly
from tests.soak.supervisor import Supervisor
from tests.soak.workers import KILLED_RUN, held_rewards, steps_done

KEY = "a-key-of-twenty-chars"
NAME = "first"
REPLICAS = 4
CPUS = REPLICAS // 2
"""CPUs of each machine: half of the replicas fit on it."""
CALLERS = 4
TIMEOUT_S = 300.0
WHOLE = "all replicas serve again, after Ray was started there"


@contextmanager
def served(folder: Path) -> Iterator[tuple[Machine, Machine]]:
    """Yield two machines that serve the rule with four replicas; Redis keeps the state of the head."""
    keys = folder / "keys"
    keys.write_text(KEY, encoding="utf-8")
    with redis(folder) as address, machines(RAY_REDIS_ADDRESS=address) as (head, node):
        head.start_ray(cpus=CPUS, head=True)
        node.start_ray(cpus=CPUS, head=False)
        options = ["--name", NAME, "--config", str(RULES), "--min-replicas", str(REPLICAS), "--cpus", "1"]
        listen = ["--host", "0.0.0.0", "--port", "8088", "--api-key-file", str(keys)]
        head.execute("-m", "reward_service", "deploy", *options, *listen)
        wait_for(lambda: whole(head), TIMEOUT_S)
        yield head, node


def whole(machine: Machine) -> bool:
    """Return whether all replicas run, as this machine sees it, and HAProxy on each machine has routes to them."""
    listing = machine.popen("-m", "reward_service", "applications").communicate()[0]
    running = any(line.split()[:3] == [NAME, "RUNNING", str(REPLICAS)] for line in listing.splitlines())
    return running and all(map(routes, (HEAD, NODE)))


def routes(address: str) -> bool:
    """Return whether HAProxy on a machine leads to a replica."""
    url, headers = f"http://{address}:8088/{NAME}/v1/rewards", {"Authorization": f"Bearer {KEY}"}
    try:
        return httpx.get(url, headers=headers, timeout=2, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


@contextmanager
def scoring(*addresses: str) -> Iterator[Tally]:
    """Score the rule meanwhile, with every score checked, through HAProxy on each of these machines."""
    tally, done = Tally(), threading.Event()
    urls = [f"http://{address}:8088/{NAME}" for address in addresses]

    async def call() -> None:
        async with aclosing(RewardClient(urls, api_key=KEY, allow_http=True)) as client:
            active = lambda: not done.is_set()  # noqa: E731
            calls = [call_repeatedly(client, tally, active, max_texts=32, seed=seed) for seed in range(CALLERS)]
            await asyncio.gather(*calls)

    thread = threading.Thread(target=lambda: asyncio.run(call()))
    thread.start()
    try:
        wait_for(lambda: len(tally.latencies_s) > CALLERS)
        yield tally
    finally:
        done.set()
        thread.join()


def seconds_until(holds: Callable[[], bool]) -> float:
    """Return the seconds until a condition holds."""
    started_s = time.monotonic()
    wait_for(holds, TIMEOUT_S)
    return time.monotonic() - started_s


def outcome_of(done: str, tally: Tally, worst_s: float = 5.0) -> Outcome:
    """Return what was lost, and the worst call."""
    outcome = Outcome(f"{done}; {CALLERS} callers, {tally.calls:,} calls", tally.lost)
    outcome.expect("worst call", max(tally.latencies_s), worst_s, " s", timed=True)
    outcome.violations += tally.errors[:3]
    return outcome


def killed_machine(head: Machine, node: Machine) -> Outcome:
    """Kill one of two machines under load, and start it again."""
    return lost(node, head, "one of two machines", gone_s=5.0)


def lost_head(head: Machine, node: Machine) -> Outcome:
    """Kill the machine of the cluster's head under load, and start it again: Redis has its state."""
    return lost(head, head, "the head's machine", gone_s=20.0)


def lost(machine: Machine, head: Machine, name: str, gone_s: float) -> Outcome:
    """Kill a machine under load, and start it again after `gone_s`."""
    with scoring(HEAD, NODE) as tally:
        machine.kill()
        time.sleep(gone_s)
        whole_s = restart(machine, head)
    outcome = outcome_of(f"{name} killed, and started {gone_s:g} s later", tally)
    outcome.expect(WHOLE, whole_s, 60.0, " s", timed=True)
    return outcome


def cut_link(head: Machine, node: Machine, silent_s: float = 30.0) -> Outcome:
    """Cut the cable of one of two machines under load; it is started again, since Ray has given it up."""
    with scoring(HEAD, NODE) as tally:
        node.connect(False)
        time.sleep(silent_s)
        node.connect(True)
        node.kill()
        restart(node, head)
    return outcome_of(f"one of two machines silent for {silent_s:g} s, and started again", tally)


def drained_machine(head: Machine, node: Machine) -> Outcome:
    """End Ray on one of two machines by SIGTERM under load, as its maintenance does, and start it again."""
    with scoring(HEAD, NODE) as tally:
        for raylet in node.processes("raylet/raylet"):
            raylet.terminate()
        seconds_until(lambda: not node.processes("ServeReplica"))
        node.kill()
        restart(node, head)
    return outcome_of("one of two machines ended by SIGTERM, and started again", tally)


def restart(machine: Machine, head: Machine) -> float:
    """Start a machine that is off, with Ray. Return the seconds from then until all replicas serve."""
    machine.start()
    machine.start_ray(cpus=CPUS, head=machine is head)
    return seconds_until(lambda: whole(head))


def killed_trainer_machine(folder: Path) -> Outcome:
    """Kill the machine of one of two workers of a run, and start it again: the run goes on as if nothing had been."""
    policy, run_folder, whole = save_policy(folder / "policy"), folder / "run", folder / "whole"
    with machines() as (head, node), Supervisor(RULES, "--insecure", host=HOST) as service:
        service.wait_until_ready()
        output_of(torchrun(short_run(policy, service.url, whole, **KILLED_RUN)), TIMEOUT_S)
        head.start_ray(cpus=1, head=True)
        node.start_ray(cpus=1, head=False)
        held, killed = threading.Event(), threading.Event()
        with faults.fault_proxy(service.url, schedule=held_rewards(run_folder, held, killed), host=HOST) as (url, _):
            flags = short_run(policy, url, run_folder, **KILLED_RUN)
            command = ["-m", "trainer", "train", "--workers", "2", "--address", f"{HEAD}:6379", *flags]
            training = head.popen(*command)
            wait_for(lambda: held.is_set() or training.poll() is not None, TIMEOUT_S)
            assert len(node.processes("RayTrainWorker")) == 1, "no worker runs on the second machine"
            node.kill()
            killed.set()
            node.start()
            node.start_ray(cpus=1, head=False)
            again_s = seconds_until(lambda: steps_done(run_folder) > 1 or training.poll() is not None)
            output_of(training, TIMEOUT_S)
    outcome = Outcome("the machine of one of two workers killed, and started again")
    outcome.lost = int(recorded(run_folder) != recorded(whole))
    outcome.expect("trains again, after Ray runs there", again_s, 60.0, " s", timed=True)
    return outcome


SERVING = (killed_machine, cut_link, lost_head, drained_machine)


def outcomes(names: list[str]) -> Iterator[tuple[str, Outcome]]:
    """Run the named trials, or all, and yield their outcomes."""
    chosen = [trial for trial in SERVING if not names or trial.__name__ in names]
    if chosen:
        with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as (head, node):
            for trial in chosen:
                yield trial.__name__, trial(head, node)
    if not names or killed_trainer_machine.__name__ in names:
        with tempfile.TemporaryDirectory() as folder:
            yield killed_trainer_machine.__name__, killed_trainer_machine(Path(folder))

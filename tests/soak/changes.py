"""Changes while it serves: reloads of the configuration and of a model, drains."""

import asyncio
import contextlib
import itertools
import random
import re
import shutil
import signal
import tempfile
import time
from pathlib import Path

import httpx

from tests.soak.base import Going, Outcome, Tally, compare, numbered, plain_http, right, settled_mb
from tests.soak.supervisor import Supervisor


def reloads(times: int, callers: int = 4) -> Outcome:
    """T9: the configuration is changed and reloaded under load, once to something that cannot be loaded."""
    tally, mixed = Tally(), [0]
    folder = Path(tempfile.mkdtemp())
    config = folder / "rewards.yaml"

    def write(weight: int) -> None:
        spec = f"{{kind: composite, parts: {{banana: {{weight: {weight}}}}}}}"
        config.write_text(f"rewards: {{banana: {{kind: rule, function: banana}}, scaled: {spec}}}")

    async def ask(client: httpx.AsyncClient, url: str, going: Going, seed: int) -> None:
        chance, serials = random.Random(seed), itertools.count(seed * 1_000_000)
        while going():
            texts = [numbered(next(serials), chance) for _ in range(16)]
            tally.calls += 1
            answer = await client.post(f"{url}/v1/score", json={"completions": texts, "rewards": ["banana", "scaled"]})
            if answer.status_code != 200:
                tally.failed += 1
                continue
            rewards = answer.json()["rewards"]
            compare(rewards["banana"]["scores"], texts, tally)
            weights = {round(s / right(t), 6) for s, t in zip(rewards["scaled"]["scores"], texts, strict=True)}
            known = weight_of.setdefault(rewards["scaled"]["revision"], weights)
            mixed[0] += weights != known or len(weights) != 1

    weight_of: dict[str, set[float]] = {}

    async def run(service: Supervisor) -> None:
        over = [False]
        async with plain_http() as client:
            asking = [
                asyncio.create_task(ask(client, service.url, lambda: not over[0], seed)) for seed in range(callers)
            ]
            for round_ in range(times):
                await asyncio.to_thread(write, 2 + round_ % 2)
                await asyncio.to_thread(reloaded, service)
            config.write_text("rewards: {banana: {kind: rule, function: bananna}}")
            await asyncio.to_thread(reloaded, service, "not reloaded")
            await asyncio.sleep(0.2)
            over[0] = True
            await asyncio.gather(*asking)

    write(1)
    with Supervisor(config) as service:
        asyncio.run(run(service))
        assert service.health() == 200
    shutil.rmtree(folder)
    outcome = Outcome("T9 reloads", f"{times} reloads and a failed one, {tally.calls:,} calls", tally.lost + mixed[0])
    outcome.figures["revisions seen"] = str(len(weight_of))
    return outcome.settle()


def reloaded(service: Supervisor, says: str = "reloaded after") -> None:
    """Tell a service to reload and wait until it says that it has."""
    before = len(re.findall(says, service.log))
    service.tell(signal.SIGHUP)
    end_s = time.monotonic() + 60
    while len(re.findall(says, service.log)) == before:
        assert time.monotonic() < end_s, service.log[-2000:]
        time.sleep(0.01)


def reloaded_models(times: int) -> Outcome:
    """T9: a model is loaded beside itself again and again; memory comes back."""
    folder = Path(tempfile.mkdtemp())
    config = folder / "rewards.yaml"
    config.write_text("rewards: {valence: {kind: regressor, model: 'embedded:valence', last_chars: 512}}")
    with Supervisor(config, "--backend", "torch", "--dtype", "float32") as service:
        for _ in range(3):  # the first ones fill the allocator's pools
            reloaded(service)
        before_mb = settled_mb(service.pid)
        for _ in range(times):
            reloaded(service)
        grown = settled_mb(service.pid) / before_mb - 1
    shutil.rmtree(folder)
    outcome = Outcome("T9 reloads of a model", f"{times} reloads")
    outcome.expect("resident memory grown by", 100 * grown, 5.0, " %")
    return outcome.settle()


SLOW = """
import time
def slow(completions, columns_id=None, **columns):
    with open("begun", "a") as file:
        file.writelines(f"{text}\\n" for text in completions)
    time.sleep(0.2)
    return [1.0 for _ in completions]
"""


def drains(times: int, callers: int = 8) -> Outcome:
    """T10: SIGTERM under load; what was begun is answered, and readiness turns at once."""
    folder = Path(tempfile.mkdtemp())
    (folder / "slow.py").write_text(SLOW)
    (folder / "rewards.yaml").write_text('rewards: {slow: "slow:slow"}')
    lost, unready_s, codes, begun = 0, [], set(), 0

    async def ask(client: httpx.AsyncClient, url: str, index: int, answered: set[str]) -> None:
        for serial in itertools.count():
            text = f"{index}-{serial}"
            try:
                answer = await client.post(f"{url}/v1/score", json={"completions": [text]})
            except httpx.HTTPError:
                return
            if answer.status_code != 200:
                return
            answered.add(text)

    async def drain(service: Supervisor) -> tuple[set[str], float]:
        answered: set[str] = set()
        async with plain_http() as client, plain_http() as watching:
            await watching.get(f"{service.url}/health/ready")
            asking = [asyncio.create_task(ask(client, service.url, index, answered)) for index in range(callers)]
            while not (folder / "begun").exists():  # noqa: ASYNC110 - a file tells nobody
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.5)  # and somewhere in the middle of it
            service.tell(signal.SIGTERM)
            told_s = time.monotonic()
            await until_unready(watching, service.url)
            turned_s = time.monotonic() - told_s
            await asyncio.gather(*asking)
        return answered, turned_s

    with Supervisor(folder / "rewards.yaml", cwd=folder) as service:
        for _ in range(times):
            service.wait_until_ready()
            answered, turned_s = asyncio.run(drain(service))
            codes.add(service.process.wait(timeout=40))
            started = set((folder / "begun").read_text().split())
            (folder / "begun").unlink()
            begun, lost = begun + len(started), lost + len(started - answered)
            unready_s.append(turned_s)
            service.start()
    shutil.rmtree(folder)
    outcome = Outcome("T10 drains", f"{times} times SIGTERM under load, {begun:,} texts begun", lost)
    outcome.expect("not ready within", 1000 * max(unready_s), 100, " ms", timed=True)
    outcome.expect("worst exit code", max(map(abs, codes)), 0)
    return outcome.settle()


async def until_unready(client: httpx.AsyncClient, url: str) -> None:
    """Wait until a service does not say that it is ready any more, or takes no connection."""
    with contextlib.suppress(httpx.HTTPError):
        while (await client.get(f"{url}/health/ready")).status_code == 200:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.002)

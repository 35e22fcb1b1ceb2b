"""Reloads of the configuration and of models, and drains, under load."""

import asyncio
import contextlib
import itertools
import random
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from tests.plain_rules import BANANA
from tests.soak.base import Condition, Outcome, Tally, expected_score, min_resident_mb, plain_http, unique_text
from tests.soak.supervisor import Supervisor


@contextlib.contextmanager
def temporary_config() -> Iterator[Path]:
    """Yield the path of a configuration file in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "rewards.yaml"


def write_scaled(config: Path, weight: int, banana: str = BANANA) -> None:
    """Write a configuration with the banana rule, and with it times a weight as `scaled`."""
    spec = f"{{kind: composite, parts: {{banana: {{weight: {weight}}}}}}}"
    config.write_text(f"rewards: {{banana: {banana}, scaled: {spec}}}")


def config_reloads(reloads: int, callers: int = 4) -> Outcome:
    """Reload a changing configuration under load, at last an invalid one: no response mixes two configurations."""
    tally, weights_by_revision = Tally(), dict[str, set[float]]()
    mixed = [0]

    async def call(client: httpx.AsyncClient, url: str, active: Condition, seed: int) -> None:
        rng, serials = random.Random(seed), itertools.count(seed * 1_000_000)
        while active():
            texts = [unique_text(next(serials), rng) for _ in range(16)]
            tally.calls += 1
            body = {"completions": texts, "rewards": ["banana", "scaled"]}
            response = await client.post(f"{url}/v1/score", json=body)
            if response.status_code != 200:
                tally.failed += 1
                continue
            rewards = response.json()["rewards"]
            tally.check(rewards["banana"]["scores"], texts)
            pairs = zip(rewards["scaled"]["scores"], texts, strict=True)
            weights = {round(score / expected_score(text), 6) for score, text in pairs}
            known_weights = weights_by_revision.setdefault(rewards["scaled"]["revision"], weights)
            mixed[0] += weights != known_weights or len(weights) != 1

    async def run(service: Supervisor, config: Path) -> None:
        stopped = asyncio.Event()
        async with plain_http() as client:
            active = lambda: not stopped.is_set()  # noqa: E731
            calls = [asyncio.create_task(call(client, service.url, active, seed)) for seed in range(callers)]
            for number in range(reloads):
                await asyncio.to_thread(write_scaled, config, 2 + number % 2)
                await asyncio.to_thread(reload_service, service)
            await asyncio.to_thread(write_scaled, config, 1, "bananna")
            await asyncio.to_thread(reload_service, service, "reload failed")
            await asyncio.sleep(0.2)
            stopped.set()
            await asyncio.gather(*calls)

    with temporary_config() as config:
        write_scaled(config, 1)
        with Supervisor(config) as service:
            asyncio.run(run(service, config))
            assert service.ready_status() == 200
    outcome = Outcome(f"{reloads} reloads and an invalid one, {tally.calls:,} calls", tally.lost + mixed[0])
    outcome.figures["revisions"] = str(len(weights_by_revision))
    return outcome


def reload_service(service: Supervisor, log_line: str = "reloaded after") -> None:
    """Send SIGHUP, and wait for the log line about the reload. Raises AssertionError after 60 s."""
    start = service.log_bytes
    service.send_signal(signal.SIGHUP)
    deadline_s = time.monotonic() + 60
    while log_line not in service.log_since(start):
        assert time.monotonic() < deadline_s, service.log[-2000:]
        time.sleep(0.01)


def model_reloads(reloads: int) -> Outcome:
    """Reload a model repeatedly: memory is freed."""
    with temporary_config() as config:
        config.write_text("rewards: {valence: {kind: regressor, model: 'embedded:valence', last_chars: 512}}")
        with Supervisor(config, "--backend", "torch", "--dtype", "float32") as service:
            for _ in range(3):  # the first reloads fill the allocator's pools
                reload_service(service)
            before_mb = min_resident_mb(service.pid)
            for _ in range(reloads):
                reload_service(service)
            growth = min_resident_mb(service.pid) / before_mb - 1
    outcome = Outcome(f"{reloads} reloads of a model")
    outcome.expect("memory growth", 100 * growth, 5.0, " %")
    return outcome


SLOW_REWARD = """
import time
def slow(completions, columns_id=None, **columns):
    with open("started", "a") as file:
        file.writelines(f"{text}\\n" for text in completions)
    time.sleep(0.2)
    return [1.0 for _ in completions]
"""


def drains(drains: int, callers: int = 8) -> Outcome:
    """Send SIGTERM under load: every started text is scored, and readiness ends at once."""
    lost, unready_s, exit_codes, started_texts = 0, [], set(), 0
    with temporary_config() as config:
        log = config.parent / "started"
        (config.parent / "slow.py").write_text(SLOW_REWARD)
        config.write_text('rewards: {slow: "slow:slow"}')
        with Supervisor(config, cwd=config.parent) as service:
            for _ in range(drains):
                service.wait_until_ready()
                scored, elapsed_s = asyncio.run(_drain(service, log, callers))
                exit_codes.add(service.process.wait(timeout=40))
                started = set(log.read_text().split())
                log.unlink()
                started_texts, lost = started_texts + len(started), lost + len(started - scored)
                unready_s.append(elapsed_s)
                service.start()
    outcome = Outcome(f"{drains} SIGTERMs under load, {started_texts:,} texts started", lost)
    outcome.expect("not ready after", 1000 * max(unready_s), 100, " ms", timed=True)
    outcome.expect("largest exit code", max(map(abs, exit_codes)), 0)
    return outcome


async def _drain(service: Supervisor, log: Path, callers: int) -> tuple[set[str], float]:
    """Drain the service under load. Returns the texts that were scored, and the seconds until it was not ready."""
    scored: set[str] = set()

    async def call(client: httpx.AsyncClient, caller: int) -> None:
        for serial in itertools.count():
            text = f"{caller}-{serial}"
            try:
                response = await client.post(f"{service.url}/v1/score", json={"completions": [text]})
            except httpx.HTTPError:
                return
            if response.status_code != 200:
                return
            scored.add(text)

    async with plain_http() as client, plain_http() as health:
        await health.get(f"{service.url}/health/ready")
        calls = [asyncio.create_task(call(client, caller)) for caller in range(callers)]
        await asyncio.to_thread(_wait_for_file, log)
        await asyncio.sleep(0.5)  # so that some texts are being scored, and others wait
        service.send_signal(signal.SIGTERM)
        signaled_s = time.monotonic()
        await _wait_until_unready(health, service.url)
        elapsed_s = time.monotonic() - signaled_s
        await asyncio.gather(*calls)
    return scored, elapsed_s


def _wait_for_file(path: Path) -> None:
    while not path.exists():
        time.sleep(0.01)


async def _wait_until_unready(client: httpx.AsyncClient, url: str) -> None:
    """Wait until the readiness check fails, or the service accepts no connection."""
    with contextlib.suppress(httpx.HTTPError):
        while (await client.get(f"{url}/health/ready")).status_code == 200:  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0.002)

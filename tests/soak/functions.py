"""Reward functions that never return: they cost their rows, and nothing else."""

import asyncio
import random

import httpx
import psutil

from remote_rewards import RewardClient
from tests.plain_rules import BANANA
from tests.soak.base import Outcome, Tally, call_repeatedly, plain_http, quantile, resident_mb
from tests.soak.reloads import temporary_config
from tests.soak.supervisor import Supervisor

WORKERS = 2
FUNCTION = "{kind: function, object: 'tests.reward_functions:loops', rows: independent, timeout_s: 1.0, "
CONFIG = f"rewards: {{banana: {BANANA}, loops: {FUNCTION}workers: {WORKERS}}}}}"


def hanging_functions(calls: int, callers: int = 2) -> Outcome:
    """Call a function that hangs on some texts: those have no score, all others do, and the service goes on."""
    tally, wrong, health_s = Tally(), list[str](), list[float]()

    async def call(client: httpx.AsyncClient, url: str, rng: random.Random) -> None:
        texts = [rng.choice(["good", "bad"]) for _ in range(3)]
        response = await client.post(f"{url}/v1/score", json={"completions": texts, "rewards": ["loops"]})
        result = response.json()["rewards"]["loops"]
        scores = [1.0 if text == "good" else None for text in texts]
        codes = {str(index): "function_timeout" for index, text in enumerate(texts) if text == "bad"}
        if result["scores"] != scores or {index: error["code"] for index, error in result["errors"].items()} != codes:
            wrong.append(f"{texts}: {result}")

    async def run(url: str) -> None:
        stopped, remaining, client = asyncio.Event(), iter(range(calls)), RewardClient(url)

        async def hang(seed: int) -> None:
            rng = random.Random(seed)
            async with plain_http(60) as http:
                for _ in remaining:
                    await call(http, url, rng)

        async def check_health() -> None:
            async with plain_http() as http:
                while not stopped.is_set():
                    health_s.append((await http.get(f"{url}/health/ready")).elapsed.total_seconds())
                    await asyncio.sleep(0.05)

        active = lambda: not stopped.is_set()  # noqa: E731
        others = [call_repeatedly(client, tally, active, max_texts=16, seed=seed) for seed in range(callers)]
        background = asyncio.gather(check_health(), *others)
        await asyncio.gather(*(hang(seed) for seed in range(callers)))
        stopped.set()
        await background
        await client.aclose()

    with temporary_config() as config:
        config.write_text(CONFIG)
        with Supervisor(config) as service:
            before_mb = resident_mb(service.pid)
            asyncio.run(run(service.url))
            growth_mb = resident_mb(service.pid) - before_mb
            workers = len(psutil.Process(service.pid).children())
            assert service.ready_status() == 200
    done = f"{calls} calls of a function that hangs on half of its texts, {tally.calls:,} calls of a rule beside them"
    outcome = Outcome(done, tally.lost + len(wrong), violations=wrong[:3])
    outcome.expect("worker processes", workers, WORKERS)
    outcome.expect("memory growth", growth_mb, 30, " MB")
    outcome.expect("health p99", 1000 * quantile(health_s, 0.99), 50, " ms", timed=True)
    return outcome

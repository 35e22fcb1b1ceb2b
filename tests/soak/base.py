"""What the trials share: their outcome, the expected scores, and callers that check every score."""

import itertools
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from remote_rewards import RewardClient
from shared.errors import RewardError
from tests.plain_rules import banana

DATA = Path(__file__).parents[1] / "data"
RULES, VALENCE = DATA / "rules.yaml", DATA / "valence.yaml"


@dataclass
class Outcome:
    """What a trial did, what was lost, its figures, and the bounds that were violated."""

    done: str
    lost: int = 0
    """Scores that were wrong, missing or invented, and calls that failed without need."""
    figures: dict[str, str] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    timing_violations: list[str] = field(default_factory=list)
    """Violated bounds on time. A busy machine may be the cause, so only `make soak` fails on them."""

    def expect(self, label: str, value: float, bound: float, unit: str = "", *, timed: bool = False) -> None:
        """Record a figure and whether it is within its upper bound."""
        shown = f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
        self.figures[label] = f"{shown}{unit} (≤ {bound:g}{unit})"
        if not value <= bound:
            violations = self.timing_violations if timed else self.violations
            violations.append(f"{label}: {shown}{unit}, the bound is {bound:g}{unit}")


def expected_score(text: str) -> float:
    """Return the banana rule's score of a text, computed without the service."""
    return sum(banana(text).values())


def unique_text(serial: int, rng: random.Random) -> str:
    """Return a text that is unique by its serial number, and whose score differs from that of most others."""
    return f"{rng.choice(['Sure:', 'No:'])} {serial} " + "word " * rng.randrange(1, 60) + "banana"


@dataclass
class Tally:
    """Counts of calls, and of what went wrong."""

    calls: int = 0
    texts: int = 0
    wrong: int = 0
    missing: int = 0
    failed: int = 0
    latencies_s: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def lost(self) -> int:
        """Scores that were wrong or missing, and calls that failed."""
        return self.wrong + self.missing + self.failed

    def check(self, scores: list[float | None], texts: list[str]) -> None:
        """Count the missing and the wrong scores of a response."""
        self.texts += len(texts)
        self.missing += max(0, len(texts) - len(scores)) + sum(score is None for score in scores)
        pairs = zip(scores, texts, strict=False)
        self.wrong += sum(score is not None and abs(score - expected_score(text)) > 1e-9 for score, text in pairs)


Condition = Callable[[], bool]


async def call_repeatedly(client: RewardClient, tally: Tally, active: Condition, *, max_texts: int, seed: int) -> None:
    """Score unique texts with the banana rule while `active()`, and check every score."""
    rng, serials = random.Random(seed), itertools.count(seed * 10_000_000)
    while active():
        texts = [unique_text(next(serials), rng) for _ in range(rng.randrange(1, max_texts + 1))]
        started_s = time.monotonic()
        tally.calls += 1
        try:
            response = await client.ascore(texts, rewards=["banana"])
        except RewardError as error:
            tally.failed += 1
            tally.errors.append(str(error))
            continue
        tally.latencies_s.append(time.monotonic() - started_s)
        tally.check(response.rewards["banana"].scores, texts)


def for_seconds(seconds: float) -> Condition:
    """Return a condition that holds for this time."""
    deadline_s = time.monotonic() + seconds
    return lambda: time.monotonic() < deadline_s


@asynccontextmanager
async def plain_http(timeout_s: float = 30.0) -> AsyncIterator[httpx.AsyncClient]:
    """Open an HTTP client without retries and without a limit on connections."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(limits=limits, timeout=timeout_s) as client:
        yield client


def quantile(values: list[float], share: float) -> float:
    """Return the smallest value that this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def min_resident_mb(pid: int, seconds: float = 3.0) -> float:
    """Return the minimum of a process's resident memory over some time, in which it frees what is no longer used."""
    active, readings = for_seconds(seconds), [resident_mb(pid)]
    while active():
        time.sleep(0.05)
        readings.append(resident_mb(pid))
    return min(readings)


def resident_mb(pid: int) -> float:
    """Return a process's resident memory in megabytes."""
    return float(psutil.Process(pid).memory_info().rss) / 1e6

"""What a trial gives back, the oracle that knows each right score, and callers that compare."""

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
from reward_service.rewards.rules import banana
from shared.errors import RewardError

DATA = Path(__file__).parents[1] / "data"
RULES, VALENCE = DATA / "rules.yaml", DATA / "valence.yaml"


@dataclass
class Outcome:
    """One trial's row in the table, and what of the promise was not kept."""

    trial: str
    done: str
    lost: int = 0
    """Scores that were wrong, missing or invented, and calls that failed without need."""
    figures: dict[str, str] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    slow: list[str] = field(default_factory=list)
    """Bounds on time that were not kept: a busy machine may be to blame, so only `make soak` judges them."""

    def expect(self, name: str, value: float, bound: float, unit: str = "", *, timed: bool = False) -> None:
        """Note a figure, and whether it is within its upper bound."""
        shown = f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
        self.figures[name] = f"{shown}{unit} (≤ {bound:g}{unit})"
        if not value <= bound:
            missed = self.slow if timed else self.broken
            missed.append(f"{name}: {shown}{unit}, at most {bound:g}{unit} is allowed")

    def settle(self) -> "Outcome":
        """Count what was lost among what is broken."""
        if self.lost:
            self.broken.append(f"{self.lost} lost")
        return self


def right(text: str) -> float:
    """Give the banana rule's score of a text: the oracle, which knows no service."""
    return sum(banana(text).values())


def numbered(serial: int, chance: random.Random) -> str:
    """Make a text that no other has, and whose score tells most others apart."""
    return f"{chance.choice(['Sure:', 'No:'])} {serial} " + "word " * chance.randrange(1, 60) + "banana"


@dataclass
class Tally:
    """What callers have seen."""

    calls: int = 0
    texts: int = 0
    wrong: int = 0
    missing: int = 0
    failed: int = 0
    latencies_s: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def lost(self) -> int:
        """All that should not have been."""
        return self.wrong + self.missing + self.failed


Going = Callable[[], bool]


async def calling(client: RewardClient, tally: Tally, going: Going, *, most: int, seed: int) -> None:
    """Ask for texts of one's own until told to end, and compare each score with the oracle's."""
    chance, serials = random.Random(seed), itertools.count(seed * 10_000_000)
    while going():
        texts = [numbered(next(serials), chance) for _ in range(chance.randrange(1, most + 1))]
        began_s = time.monotonic()
        tally.calls += 1
        try:
            response = await client.ascore(texts, rewards=["banana"])
        except RewardError as error:
            tally.failed += 1
            tally.errors.append(str(error))
            continue
        tally.latencies_s.append(time.monotonic() - began_s)
        compare(response.rewards["banana"].scores, texts, tally)


def compare(scores: list[float | None], texts: list[str], tally: Tally) -> None:
    """Count what is missing and what is wrong."""
    tally.texts += len(texts)
    tally.missing += max(0, len(texts) - len(scores)) + sum(score is None for score in scores)
    pairs = zip(scores, texts, strict=False)
    tally.wrong += sum(score is not None and abs(score - right(text)) > 1e-9 for score, text in pairs)


def for_seconds(seconds: float) -> Going:
    """Tell whether so many seconds have not passed yet."""
    end_s = time.monotonic() + seconds
    return lambda: time.monotonic() < end_s


@asynccontextmanager
async def plain_http(timeout_s: float = 30.0) -> AsyncIterator[httpx.AsyncClient]:
    """Give a client without retries, as many connections as there are callers."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(limits=limits, timeout=timeout_s) as client:
        yield client


def quantile(values: list[float], share: float) -> float:
    """Give the value that this share of them stays within."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def settled_mb(pid: int, within_s: float = 3.0) -> float:
    """Give the least resident memory over some time: what is on its way out, such as old rewards, is not meant."""
    going, readings = for_seconds(within_s), [resident_mb(pid)]
    while going():
        time.sleep(0.05)
        readings.append(resident_mb(pid))
    return min(readings)


def resident_mb(pid: int) -> float:
    """Give a process's resident memory in megabytes."""
    return float(psutil.Process(pid).memory_info().rss) / 1e6

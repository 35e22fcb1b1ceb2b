"""A retry loop in virtual time, with scripted endpoints instead of a network."""

import asyncio
import itertools
import selectors
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from remote_rewards import discovery, retry
from remote_rewards.retry import RetryingSender, Timeouts
from remote_rewards.retry_log import RetryLog
from remote_rewards.transport import Request
from shared.errors import InternalServerError, NotReady, Overloaded, ServiceUnreachable
from shared.schemas import INSTANCE_HEADER

A, B, C = "http://a", "http://b", "http://c"
NAME = "dns+http://rewards:8088"
REQUEST = Request("POST", "/v1/score", b"{}")
FAILS = partial(InternalServerError, "it responded with 500", status=500, code="failed")
DOWN = partial(ServiceUnreachable, "connection refused")
FULL = partial(Overloaded, "full", status=429, code="overloaded", retry_after_s=2.0)
LOADING = partial(NotReady, "loading", status=503, code="loading")
NEVER = 1e9


def gaps(times_s):
    """Return the seconds between each time and the next."""
    return [later_s - earlier_s for earlier_s, later_s in itertools.pairwise(times_s)]


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next scheduled callback instead of waiting for it."""

    def __init__(self):
        super().__init__(selectors.DefaultSelector())
        self.now_s = 1000.0

    def time(self):
        return self.now_s

    def _run_once(self):
        if not self._ready and self._scheduled:
            self.now_s = max(self.now_s, self._scheduled[0].when())
        super()._run_once()


@dataclass
class ScriptedTransport:
    """Responds for each URL by its script: after so many seconds, or with an error. The last entry repeats."""

    loop: VirtualLoop
    script: dict[str, list]
    sent: list[tuple[float, str, float]] = field(default_factory=list)
    """When, where to, and with which timeout."""
    instances: dict[str, list] = field(default_factory=dict)
    """The instance that responds for each URL, by the same kind of script."""

    async def send(self, url, request, deadline_s):
        assert request is REQUEST
        timeout_s = deadline_s - self.loop.now_s
        self.sent.append((round(self.loop.now_s - 1000.0, 6), url, round(timeout_s, 6)))
        step = next_of(self.script[url])
        if callable(step):
            raise step()
        await asyncio.sleep(min(step, timeout_s))
        if step > timeout_s:
            raise DOWN()
        return httpx.Response(200, text=f"response of {url}", headers=instance_header(url, self.instances))

    @property
    def times(self):
        return [when for when, *_ in self.sent]

    @property
    def urls(self):
        return [url for _, url, _ in self.sent]


def instance_header(url, instances):
    return {INSTANCE_HEADER: next_of(instances[url])} if url in instances else {}


def next_of(script):
    return script.pop(0) if len(script) > 1 else script[0]


@dataclass
class Outcome:
    """What became of the last call, and the sender that made it."""

    result: Any
    sender: RetryingSender
    log: RetryLog
    took_s: list[float]

    @property
    def network(self):
        return self.sender.transport

    @property
    def endpoint(self):
        return self.sender.endpoints.endpoints[0]


@pytest.fixture
def loop(monkeypatch):
    loop = VirtualLoop()
    for module in (retry, discovery):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=loop.time))
    monkeypatch.setattr(retry, "JITTER", SimpleNamespace(random=lambda: 0.5))
    yield loop
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


def text_of(response):
    return response.text


@dataclass
class Caller:
    """Makes senders over scripted endpoints, and calls with them."""

    loop: VirtualLoop

    def sender(self, transport, urls, log=None, **timeouts):
        return RetryingSender(urls, transport, Timeouts(**{"hedge_after_s": None, **timeouts}), log or RetryLog())

    def call(self, sender, parse: Callable = text_of, timeout_s=20.0):
        return self.loop.create_task(sender.send(REQUEST, parse, self.loop.now_s + timeout_s))

    def __call__(self, script, *, urls=None, parse=text_of, timeout_s=20.0, times=1, on_retry=None, **timeouts):
        """Call `times` times, one after the other."""
        log = RetryLog(on_retry)
        sender = self.sender(ScriptedTransport(self.loop, script), urls or list(script), log, **timeouts)
        took_s = []
        for _ in range(times):
            started_s, call = self.loop.now_s, self.call(sender, parse, timeout_s)
            self.loop.run_until_complete(asyncio.wait([call]))
            took_s.append(self.loop.now_s - started_s)
            result = call.exception() or call.result()
        return Outcome(result, sender, log, took_s)

    def start(self, script, calls, **timeouts):
        """Start calls at the same time; return them and their sender."""
        sender = self.sender(ScriptedTransport(self.loop, script), list(script), **timeouts)
        return [self.call(sender) for _ in range(calls)], sender

    def cancel(self, *calls):
        for call in calls:
            call.cancel()
        self.loop.run_until_complete(asyncio.wait(calls))


@pytest.fixture
def send(loop):
    return Caller(loop)


@dataclass
class NameServer:
    """Resolves `NAME` by a script of addresses and delays."""

    addresses: list[list[str]]
    delays_s: list[float] = field(default_factory=lambda: [0.0])
    asked_s: list[float] = field(default_factory=list)

    async def resolve_url(self, url):
        if url != NAME:
            return [url]
        self.asked_s.append(asyncio.get_running_loop().time() - 1000.0)
        delay_s, addresses = next_of(self.delays_s), next_of(self.addresses)
        await asyncio.sleep(delay_s)
        return addresses


@pytest.fixture
def send_to_name(send, monkeypatch):
    """Call `NAME`, and the other URLs given."""

    def run(names, script, *others, **options):
        monkeypatch.setattr("remote_rewards.discovery.resolve_url", names.resolve_url)
        return send(script, urls=[*others, NAME], **options)

    return run

"""Service discovery: resolve URLs to endpoints. `dns+http://name:port` stands for all current addresses of the name."""

import asyncio
import math
import socket
import time
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from urllib.parse import urlsplit

import httpx

from remote_rewards.load_balancing import Endpoint, replicas_for_a_call
from shared.errors import InvalidUrl

DNS_SCHEME = "dns+http://"
REFRESH_INTERVAL_S = 5.0
"""Time between two look-ups of the names while calls are made."""
URGENT_INTERVAL_S = 1.0
"""The same while a replica fails or a name has no address."""
IDLE_TIMEOUT_S = 300.0
"""Time after the last call in which the names are still looked up, so that a training step meets current addresses."""


class EndpointSet:
    """The endpoints behind some URLs. Used from one event loop.

    Names are looked up in the background from the first call until `IDLE_TIMEOUT_S` after the last one. An address that
    is no longer behind its name gets no further calls; those in flight finish.
    """

    def __init__(self, urls: Iterable[str]) -> None:
        self._addresses = {url: [] if url.startswith(DNS_SCHEME) else [url] for url in urls}
        self._has_names = not all(self._addresses.values())
        self.endpoints = reconcile([], self._addresses)
        self._max_calls: int | None = None
        self._requests = 0
        self._last_call_s = self._last_refresh_s = -math.inf
        self._refresh: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def set_max_calls(self, calls: int | None) -> None:
        """Set how many calls may be in flight to one replica; None keeps the default."""
        self._max_calls = calls
        if calls is not None:
            for endpoint in self.endpoints:
                endpoint.limiter.set_maximum(calls)

    def replicas_for_a_call(self, spread: int) -> int:
        """Return over how many replicas to spread one call now; `spread` is the number that the service tells."""
        return replicas_for_a_call(self.endpoints, spread, self._requests, now_s=time.monotonic())

    @contextmanager
    def in_progress(self, requests: int) -> Iterator[None]:
        """Count the requests of a call, sent or not yet: calls that start together take each other into account."""
        self._requests += requests
        try:
            yield
        finally:
            self._requests -= requests

    def excluding(self, excluded: Container[str]) -> list[Endpoint]:
        """Return the endpoints whose URLs are not excluded."""
        return [endpoint for endpoint in self.endpoints if endpoint.url not in excluded]

    async def resolve(self, excluded: Container[str], deadline_s: float, *, rejected: bool = False) -> list[Endpoint]:
        """Return the same. Only a call without any endpoint waits for the name server, which may be slow.

        The names are looked up sooner if the call was `rejected` by an endpoint, as another one may have joined.
        """
        if self._has_names:
            self._last_call_s = time.monotonic()
            no_endpoint = not self.excluding(excluded)
            urgent = rejected or no_endpoint or self._is_failing()
            self._refresh_after(URGENT_INTERVAL_S if urgent else REFRESH_INTERVAL_S)
            if no_endpoint and self._refresh:
                await asyncio.wait([self._refresh], timeout=max(0.0, deadline_s - time.monotonic()))
        return self.excluding(excluded)

    def _is_failing(self) -> bool:
        return not all(self._addresses.values()) or any(one.consecutive_failures for one in self.endpoints)

    def _refresh_after(self, interval_s: float) -> None:
        """Look the names up if the last look-up began before this time."""
        if self._refresh is None and time.monotonic() >= self._last_refresh_s + interval_s:
            self._last_refresh_s = time.monotonic()
            self._refresh = asyncio.create_task(self._resolve_all())
            self._refresh.add_done_callback(self._end_refresh)

    def _end_refresh(self, refresh: asyncio.Task[None]) -> None:
        self._refresh = None
        self._cancel_timer()
        if not refresh.cancelled():
            self._timer = asyncio.get_running_loop().call_later(REFRESH_INTERVAL_S, self._refresh_unless_idle)

    def _refresh_unless_idle(self) -> None:
        if time.monotonic() < self._last_call_s + IDLE_TIMEOUT_S:
            self._refresh_after(0.0)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    async def _resolve_all(self) -> None:
        for url, addresses in self._addresses.items():
            self._addresses[url] = await resolve_url(url) or addresses  # a name may be unknown temporarily
            before, self.endpoints = self.endpoints, reconcile(self.endpoints, self._addresses)
            if self.endpoints != before:
                self.set_max_calls(self._max_calls)

    async def aclose(self) -> None:
        """End the look-ups."""
        self._cancel_timer()
        if refresh := self._refresh:
            refresh.cancel()
            await asyncio.wait([refresh])


def validate_urls(urls: Iterable[str]) -> None:
    """Raise `InvalidUrl` for the first URL that no service can be reached at."""
    for url in urls:
        if not _is_valid(url):
            raise InvalidUrl(
                f"{_without_password(url)!r} is not the URL of a reward service; write http://host:port, "
                f"https://host or {DNS_SCHEME}name:port, such as http://127.0.0.1:8088, and pass the API key separately"
            )


def _without_password(url: str) -> str:
    _, at, rest = url.rpartition("@")
    return f"…{at}{rest}" if at else url


def _is_valid(url: str) -> bool:
    try:
        parts, _ = urlsplit(url), httpx.URL(url)
        host, _ = parts.hostname or "", parts.port  # reading the port validates it
        host.encode("idna")  # as sockets do: no label may be empty or too long
    except (ValueError, httpx.InvalidURL):
        return False
    if parts.query or parts.fragment or "@" in parts.netloc:  # a password would be sent in place of the key
        return False
    return bool(host) and url.split() == [url] and (parts.scheme in ("http", "https") or url.startswith(DNS_SCHEME))


async def resolve_url(url: str) -> list[str]:
    """Return the sorted URLs of a DNS name's addresses, none if it is unknown. Any other URL stands for itself."""
    if not url.startswith(DNS_SCHEME):
        return [url]
    parts = urlsplit(url)
    port = parts.port or 80
    loop = asyncio.get_running_loop()
    try:
        addresses = await loop.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except OSError:
        return []
    hosts = sorted({str(address[0]) for *_, address in addresses})
    return [f"http://{f'[{host}]' if ':' in host else host}:{port}{parts.path}" for host in hosts]


def reconcile(endpoints: Iterable[Endpoint], addresses: Mapping[str, Sequence[str]]) -> list[Endpoint]:
    """Return one endpoint for each address, in order; an endpoint that exists keeps its state."""
    by_url = {endpoint.url: endpoint for endpoint in endpoints}
    return [by_url.get(url) or Endpoint(url) for url in dict.fromkeys(chain(*addresses.values()))]

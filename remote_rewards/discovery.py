"""Service discovery: resolve URLs to endpoints. `dns+http://name:port` stands for all current addresses of the name."""

import asyncio
import socket
import time
from collections.abc import Container, Iterable, Mapping, Sequence
from itertools import chain
from urllib.parse import urlsplit

import httpx

from remote_rewards.load_balancing import Endpoint
from shared.errors import InvalidUrl

DNS_SCHEME = "dns+http://"
REFRESH_INTERVAL_S = 1.0


class EndpointSet:
    """The endpoints behind some URLs. Used from one event loop.

    Names are resolved again while an endpoint fails or a name has no address: a replica may have moved.
    """

    def __init__(self, urls: Iterable[str]) -> None:
        self._addresses = {url: [] if url.startswith(DNS_SCHEME) else [url] for url in urls}
        self.endpoints = reconcile([], self._addresses)
        self._refresh_at_s = 0.0
        self._refresh: asyncio.Task[None] | None = None

    def excluding(self, excluded: Container[str]) -> list[Endpoint]:
        """Return the endpoints whose URLs are not excluded."""
        return [endpoint for endpoint in self.endpoints if endpoint.url not in excluded]

    async def resolve(self, excluded: Container[str], deadline_s: float) -> list[Endpoint]:
        """Return the same. Only a call without any endpoint waits for the name server, which may be slow."""
        no_endpoint = not self.excluding(excluded)
        failing = any(endpoint.consecutive_failures for endpoint in self.endpoints)
        if no_endpoint or failing or not all(self._addresses.values()):
            self._start_refresh()
            if no_endpoint and self._refresh:
                await asyncio.wait([self._refresh], timeout=max(0.0, deadline_s - time.monotonic()))
        return self.excluding(excluded)

    def _start_refresh(self) -> None:
        if self._refresh is None and time.monotonic() >= self._refresh_at_s:
            self._refresh_at_s = time.monotonic() + REFRESH_INTERVAL_S
            self._refresh = asyncio.create_task(self._resolve_all())
            self._refresh.add_done_callback(self._end_refresh)

    def _end_refresh(self, _: asyncio.Task[None]) -> None:
        self._refresh = None

    async def _resolve_all(self) -> None:
        for url, addresses in self._addresses.items():
            self._addresses[url] = await resolve_url(url) or addresses  # a name may be unknown temporarily
            self.endpoints = reconcile(self.endpoints, self._addresses)

    async def aclose(self) -> None:
        """Cancel the refresh in progress."""
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

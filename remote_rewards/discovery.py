"""Which addresses stand behind a URL. `dns+http://name:port` is every address that the name has by now."""

import asyncio
import socket
import time
from collections.abc import Container, Iterable, Mapping, Sequence
from itertools import chain
from urllib.parse import urlsplit

import httpx

from remote_rewards.load_balancing import Endpoint
from shared.errors import InvalidUrl

BY_NAME = "dns+http://"
LOOK_UP_EVERY_S = 1.0


class Replicas:
    """The replicas behind some URLs, with what is known of each.

    While one of them fails, or a name has no address, names are looked up again: it may have come back at another one.
    """

    def __init__(self, urls: Iterable[str]) -> None:
        self._addresses = {url: [] if url.startswith(BY_NAME) else [url] for url in urls}
        self.endpoints = refreshed([], self._addresses)
        self._look_up_s = 0.0  # when the names are to be looked up again
        self._looking: dict[asyncio.AbstractEventLoop, asyncio.Task[None]] = {}

    def besides(self, passed_over: Container[str]) -> list[Endpoint]:
        """Give those that are not passed over, by URL."""
        return [each for each in self.endpoints if each.url not in passed_over]

    async def found(self, passed_over: Container[str], deadline_s: float) -> list[Endpoint]:
        """Give the same. Who has nobody to ask waits for a look-up, and nobody else does: name servers may be slow."""
        nobody = not self.besides(passed_over)
        if nobody or any(each.failures for each in self.endpoints) or not all(self._addresses.values()):
            looking = self._look_up()
            if nobody and looking:
                await asyncio.wait([looking], timeout=max(0.0, deadline_s - time.monotonic()))
        return self.besides(passed_over)

    def _look_up(self) -> asyncio.Task[None] | None:
        """Give the look-up that this event loop has under way; begin one where the last one was long enough ago."""
        loop = asyncio.get_running_loop()
        if loop not in self._looking and time.monotonic() >= self._look_up_s:
            self._look_up_s = time.monotonic() + LOOK_UP_EVERY_S
            self._looking[loop] = loop.create_task(self._refresh())
            self._looking[loop].add_done_callback(lambda _: self._looking.pop(loop, None))
        return self._looking.get(loop)

    async def _refresh(self) -> None:
        for url, known in self._addresses.items():
            self._addresses[url] = await addresses_of(url) or known  # a name may be unknown for a moment
            self.endpoints = refreshed(self.endpoints, self._addresses)

    async def aclose(self) -> None:
        """End the look-up of the running event loop."""
        if looking := self._looking.get(asyncio.get_running_loop()):
            looking.cancel()
            await asyncio.wait([looking])


def refuse_bad(urls: Iterable[str]) -> None:
    """Raise `InvalidUrl` for the first URL, if any, that nobody could be asked at, whatever runs there."""
    for url in urls:
        if not _askable(url):
            raise InvalidUrl(
                f"{_shown(url)!r} is no address of a reward service; write http://host:port, https://host or "
                f"{BY_NAME}name:port, such as http://127.0.0.1:8088, and give a key apart from it"
            )


def _shown(url: str) -> str:
    """Give what may be told of a URL: not what stands before an @, which may be a password."""
    _, at, rest = url.rpartition("@")
    return f"…{at}{rest}" if at else url


def _askable(url: str) -> bool:
    try:
        parts, _ = urlsplit(url), httpx.URL(url)
        host, _ = parts.hostname or "", parts.port  # reading the port checks it
        host.encode("idna")  # as sockets do: no part may be empty, or too long
    except (ValueError, httpx.InvalidURL):
        return False
    if parts.query or parts.fragment or "@" in parts.netloc:  # a password would be sent in place of the key
        return False
    return bool(host) and url.split() == [url] and (parts.scheme in ("http", "https") or url.startswith(BY_NAME))


async def addresses_of(url: str) -> list[str]:
    """Give the URLs of a name's addresses, in order; of any other URL itself. None, where the name is not known now."""
    if not url.startswith(BY_NAME):
        return [url]
    parts = urlsplit(url)
    port = parts.port or 80
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except OSError:
        return []
    hosts = sorted({str(address[0]) for *_, address in found})
    return [f"http://{f'[{host}]' if ':' in host else host}:{port}{parts.path}" for host in hosts]


def refreshed(known: Iterable[Endpoint], addresses: Mapping[str, Sequence[str]]) -> list[Endpoint]:
    """Give one endpoint for each address behind the URLs: the known ones as they are, with what is known of them."""
    by_url = {endpoint.url: endpoint for endpoint in known}
    return [by_url.get(url) or Endpoint(url) for url in dict.fromkeys(chain(*addresses.values()))]

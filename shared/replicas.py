"""Which addresses stand behind a URL. `dns+http://name:port` is every address that the name has by now."""

import asyncio
import socket
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from urllib.parse import urlsplit

import httpx

from shared.endpoints import Endpoint
from shared.errors import BadAddress

BY_NAME = "dns+http://"


def refuse_bad(urls: Iterable[str]) -> None:
    """Raise `BadAddress` for the first URL, if any, that nobody could be asked at, whatever runs there."""
    for url in urls:
        if not _askable(url):
            raise BadAddress(
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

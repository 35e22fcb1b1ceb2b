"""One attempt at one address: what is sent, what comes back, within its time. Asking again is decided elsewhere."""

import asyncio
import time
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import httpx

from shared import answers, protocol
from shared.errors import BadAddress, ServiceUnreachable
from shared.keys import ApiKey

LONGEST_S = 3600.0
"""No service lets anybody wait for longer."""


@dataclass(frozen=True, slots=True)
class Call:
    """What is asked, wherever it is sent."""

    method: str
    path: str
    body: bytes | None = None


class Transport:
    """Connections to services: a set of them for each event loop, and one for plain HTTP beside one for TLS.

    Not one for each address: addresses come and go with a name, and a set would stay for each that ever was.
    """

    def __init__(self, key: ApiKey, connect_timeout_s: float) -> None:
        self._key, self._connect_timeout_s = key, connect_timeout_s
        self._clients: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[bool, httpx.AsyncClient]] = WeakKeyDictionary()

    async def send(self, url: str, call: Call, until_s: float) -> httpx.Response:
        """Send once and read the answer whole, by a time of the monotonic clock.

        Raises `ServiceUnreachable`, or what a problem document says.
        """
        remaining_s = max(0.001, until_s - time.monotonic())
        timeout = httpx.Timeout(remaining_s, connect=min(self._connect_timeout_s, remaining_s))
        headers = {protocol.TIMEOUT_HEADER: str(int(min(remaining_s, LONGEST_S) * 1000)), "Accept-Encoding": "identity"}
        headers |= self._key.header | ({} if call.body is None else {"Content-Type": protocol.JSON})
        http, address = self._http(url), url + call.path
        try:
            async with (
                asyncio.timeout(remaining_s),
                http.stream(call.method, address, content=call.body, headers=headers, timeout=timeout) as stream,
            ):
                response = await answers.read(stream)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as cause:
            raise ServiceUnreachable(
                f"no reward service answers at {url} ({type(cause).__name__}: {cause}); "
                f"start one with `reward-service serve`, or check the URL"
            ) from cause
        answers.raise_for_problem(response)
        return response

    def _http(self, url: str) -> httpx.AsyncClient:
        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            self._forget_closed()
        clients, tls = self._clients.setdefault(loop, {}), url.lower().startswith("https")
        if tls not in clients:
            clients[tls] = _connections(trust_env=tls)
        return clients[tls]

    def _forget_closed(self) -> None:
        """Let go of what belongs to closed event loops: connections hold their loop, so its entry never goes itself."""
        for loop in [known() for known in self._clients.keyrefs()]:
            if loop is not None and loop.is_closed():
                self._clients.pop(loop, None)

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        for http in self._clients.pop(asyncio.get_running_loop(), {}).values():
            await http.aclose()


def _connections(*, trust_env: bool) -> httpx.AsyncClient:
    """Make a set of connections. A proxy of the environment would read what goes over plain HTTP, the key too."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=5.0)
    try:
        return httpx.AsyncClient(limits=limits, follow_redirects=False, trust_env=trust_env)
    except (ImportError, ValueError, httpx.InvalidURL) as cause:
        raise BadAddress(
            f"the environment names a proxy that cannot be used: {cause}; mend HTTPS_PROXY, ALL_PROXY or NO_PROXY"
        ) from cause


def readable_by_others(url: str) -> bool:
    """Tell whether what is sent to an address can be read on its way: plain HTTP to another machine."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme.endswith("https") or host == "localhost":
        return False
    try:
        return not ip_address(host).is_loopback
    except ValueError:  # a name
        return True

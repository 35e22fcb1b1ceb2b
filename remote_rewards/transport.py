"""One attempt at one address: what is sent, what comes back, within its time. Asking again is decided elsewhere."""

import asyncio
import time
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import httpx

from remote_rewards import responses
from remote_rewards.keys import ApiKey
from shared import schemas
from shared.errors import InvalidUrl, ServiceUnreachable

LONGEST_S = 3600.0
"""No service lets anybody wait for longer."""
ON_ITS_WAY_S = 0.25
"""So much sooner than it is given up a service is to answer, if need be that it was not in time: that has to arrive."""


@dataclass(frozen=True, slots=True)
class Call:
    """What is asked, wherever it is sent."""

    method: str
    path: str
    body: bytes | None = None


def told_s(left_s: float) -> float:
    """Give the time that a service is told it has, of what is left: nine tenths of it, or all but a moment."""
    return left_s - min(ON_ITS_WAY_S, left_s / 10)


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
        told = told_s(min(remaining_s, LONGEST_S))
        timeout = httpx.Timeout(remaining_s, connect=min(self._connect_timeout_s, told))
        headers = {schemas.TIMEOUT_HEADER: str(max(1, int(told * 1000))), "Accept-Encoding": "identity"}
        headers |= self._key.header | ({} if call.body is None else {"Content-Type": schemas.JSON})
        http, address = self._http(url), url + call.path
        try:
            async with (
                asyncio.timeout(remaining_s),
                http.stream(call.method, address, content=call.body, headers=headers, timeout=timeout) as stream,
            ):
                response = await responses.read(stream)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as cause:
            raise ServiceUnreachable(_why(url, cause, remaining_s)) from cause
        responses.raise_for_problem(response)
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


def _why(url: str, cause: Exception, within_s: float) -> str:
    """Say why there is no answer. A connection has less time than an answer: what took all of it was connected."""
    if isinstance(cause, TimeoutError | httpx.ReadTimeout | httpx.WriteTimeout):
        return f"{url} has not answered within {round(within_s, 2):g} s"
    return (
        f"no reward service answers at {url} ({type(cause).__name__}: {cause}); "
        f"start one with `reward-service serve`, or check the URL"
    )


def _connections(*, trust_env: bool) -> httpx.AsyncClient:
    """Make a set of connections. A proxy of the environment would read what goes over plain HTTP, the key too."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=5.0)
    try:
        return httpx.AsyncClient(limits=limits, follow_redirects=False, trust_env=trust_env)
    except (ImportError, ValueError, httpx.InvalidURL) as cause:
        raise InvalidUrl(
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

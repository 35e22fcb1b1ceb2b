"""One attempt at one endpoint over httpx, within its time, with the API key. Retries are decided elsewhere."""

import asyncio
import contextlib
import json
import os
import re
import ssl
import time
import zlib
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from remote_rewards import responses
from shared import schemas
from shared.errors import InsecureTransport, InvalidApiKey, InvalidUrl, NotSerializable, ServiceUnreachable

MAX_TIMEOUT_S = 3600.0
"""Upper bound of the timeout that is advertised to a service."""
NETWORK_MARGIN_S = 0.25
"""Subtracted from the advertised timeout, so that a service's `deadline_exceeded` response still arrives in time."""
POOLS = 16
"""Number of connection pools of an event loop."""
TRUE_VALUES = {"1", "true", "yes", "on"}
VISIBLE_ASCII = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True)
class Request:
    """A request before its endpoint is chosen."""

    method: str
    path: str
    body: bytes | None = None
    revisions: Mapping[str, str] = field(default_factory=dict)
    """The revision that each reward is pinned to: a service with another one answers 412 without scoring."""


def encode(request: Mapping[str, Any]) -> bytes:
    """Encode as compact JSON. Arrays and scalars of numpy and torch become lists and numbers.

    Lone surrogates, which UTF-8 cannot represent, become question marks. Raises `NotSerializable` for what JSON cannot
    represent, NaN included.
    """
    try:
        return _json(request).encode("utf-8", "replace")
    except (TypeError, ValueError, RecursionError) as cause:
        raise NotSerializable(_describe_unserializable(request, cause)) from cause


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=_as_list)


def _as_list(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} is neither text nor a number")


def _describe_unserializable(request: Mapping[str, Any], cause: Exception) -> str:
    values = {f"a text of {name!r}": request[name] for name in ("completions", "prompts") if name in request}
    columns = request.get("columns", {})
    values |= {f"the column {name!r}, which a reward reads,": column for name, column in columns.items()}
    for name, value in values.items():
        try:
            _json(value)
        except (TypeError, ValueError, RecursionError) as reason:
            cause, what = reason, name
            break
    else:
        what = "the request"
    detail = "NaN and infinities are no JSON numbers" if "Out of range float" in str(cause) else str(cause)
    return f"{what} cannot be sent as JSON: {detail}; convert it to text, numbers or None in the dataset"


class ApiKey(httpx.Auth):
    """Sends a key as bearer token. A key from a file is read again when a service rejects it. Never printed."""

    def __init__(self, source: str | Path | None) -> None:
        self._source = source
        self._value = self._read()

    def __repr__(self) -> str:
        return f"ApiKey({self._source})" if isinstance(self._source, Path) else "ApiKey(…)"

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Send the key; after a rejection send the file's key, if it is another one."""
        sent = self._sign(request)
        response = yield request
        if response.status_code in (401, 403) and isinstance(self._source, Path):
            with contextlib.suppress(InvalidApiKey):  # while the file is being replaced, the last key stays
                self._value = self._read()
            if self._value != sent:
                self._sign(request)
                yield request

    def _sign(self, request: httpx.Request) -> str:
        if self._value:
            request.headers["Authorization"] = f"Bearer {self._value}"
        return self._value

    def _read(self) -> str:
        value = read_key_file(self._source) if isinstance(self._source, Path) else (self._source or "").strip()
        if value and not VISIBLE_ASCII.fullmatch(value):
            raise InvalidApiKey(
                "the API key contains characters that cannot be sent: is it a whole file, or another text?"
            )
        return value


def read_key_file(file: Path) -> str:
    """Return the first key of a file; a service's own file has several while keys are rotated.

    Raises `InvalidApiKey`.
    """
    try:
        keys = file.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidApiKey(
            f"cannot read the API key file {file}: {type(error).__name__}; write the key into it"
        ) from None
    if not keys:
        raise InvalidApiKey(f"{file} contains no API key: it is empty; write the key into it")
    return keys[0]


def advertised_timeout_s(remaining_s: float) -> float:
    """Return the timeout to advertise to a service: 90 % of the remaining time, or all but `NETWORK_MARGIN_S`."""
    return remaining_s - min(NETWORK_MARGIN_S, remaining_s / 10)


class Transport:
    """The connections of one event loop, in `POOLS` pools by endpoint. `transport` replaces the network.

    A request costs time that grows with the square of the connections in its pool (httpcore 1), so that replicas should
    not share one. There is no pool for each endpoint, since the addresses behind a name come and go.
    """

    def __init__(
        self, auth: httpx.Auth, connect_timeout_s: float, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._auth, self._connect_timeout_s, self._transport = auth, connect_timeout_s, transport
        self._clients: dict[tuple[bool, int], httpx.AsyncClient] = {}
        self._contexts: dict[bool, ssl.SSLContext] = {}

    async def send(self, url: str, request: Request, deadline_s: float) -> httpx.Response:
        """Send a request once and return the response with its whole body. `deadline_s` is of the monotonic clock.

        Raises `ServiceUnreachable`, or the error that a response other than 200 means.
        """
        remaining_s = max(0.001, deadline_s - time.monotonic())
        advertised_s = advertised_timeout_s(min(remaining_s, MAX_TIMEOUT_S))
        timeout = httpx.Timeout(remaining_s, connect=min(self._connect_timeout_s, advertised_s))
        headers = {schemas.TIMEOUT_HEADER: str(max(1, int(advertised_s * 1000))), "Accept-Encoding": "identity"}
        if request.body is not None:
            headers["Content-Type"] = schemas.JSON
        if pins := schemas.format_pins(request.revisions):
            headers[schemas.REVISION_HEADER] = pins
        client, address = self._client_for(url), url + request.path
        try:
            async with (
                asyncio.timeout(remaining_s),
                client.stream(request.method, address, content=request.body, headers=headers, timeout=timeout) as raw,
            ):
                response = await responses.read_response(raw)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as cause:
            raise ServiceUnreachable(_describe_failure(url, cause, remaining_s)) from cause
        responses.raise_for_problem(response)
        return response

    def _client_for(self, url: str) -> httpx.AsyncClient:
        tls = url.lower().startswith("https")
        pool = tls, zlib.crc32(url.encode()) % POOLS
        if pool not in self._clients:
            if tls not in self._contexts:  # shared: loading the certificates takes longer than scoring a text
                self._contexts[tls] = httpx.create_ssl_context(trust_env=tls)
            self._clients[pool] = _new_http_client(self._auth, self._transport, self._contexts[tls], trust_env=tls)
        return self._clients[pool]

    async def aclose(self) -> None:
        """Close all connections."""
        clients, self._clients = self._clients, {}
        for client in clients.values():
            await client.aclose()


def _new_http_client(
    auth: httpx.Auth, transport: httpx.AsyncBaseTransport | None, context: ssl.SSLContext, *, trust_env: bool
) -> httpx.AsyncClient:
    """Return a client. Over plain HTTP it must not trust the environment, whose proxy could read the API key."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=5.0)
    try:
        return httpx.AsyncClient(auth=auth, transport=transport, limits=limits, trust_env=trust_env, verify=context)
    except (ImportError, ValueError, httpx.InvalidURL) as cause:
        raise InvalidUrl(
            f"the proxy of the environment cannot be used: {cause}; correct HTTPS_PROXY, ALL_PROXY or NO_PROXY"
        ) from cause


def _describe_failure(url: str, cause: Exception, timeout_s: float) -> str:
    """Return why there is no response. `httpx.ConnectTimeout` is no late response: connecting has its own timeout."""
    if isinstance(cause, TimeoutError | httpx.ReadTimeout | httpx.WriteTimeout):
        return f"no response from {url} within {round(timeout_s, 2):g} s"
    if _is_refused(cause):
        return f"connection refused at {url}"
    return f"connection to {url} failed ({type(cause).__name__}: {cause})"


def _is_refused(error: BaseException | None) -> bool:
    """Return whether a refused connection is at the root of an error; httpx itself does not tell."""
    if isinstance(error, BaseExceptionGroup):  # one error per address of a host
        return all(map(_is_refused, error.exceptions))
    return isinstance(error, ConnectionRefusedError) or (
        error is not None and _is_refused(error.__cause__ or error.__context__)
    )


def reject_plaintext_key(urls: Iterable[str], *, allow_http: bool) -> None:
    """Raise `InsecureTransport` if a key sent to one of the URLs could be read on the network and that is not allowed.

    `REWARD_ALLOW_HTTP` in the environment allows it, too.
    """
    if allow_http or os.environ.get("REWARD_ALLOW_HTTP", "").lower() in TRUE_VALUES:
        return
    for url in filter(is_plaintext_remote, urls):
        raise InsecureTransport(
            f"the API key would be sent unencrypted to {url}: use https, or pass allow_http=True "
            f"(REWARD_ALLOW_HTTP=1) if you trust the network"
        )


def is_plaintext_remote(url: str) -> bool:
    """Return whether a URL is plain HTTP to another machine."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme.endswith("https") or host == "localhost":
        return False
    try:
        return not ip_address(host).is_loopback
    except ValueError:  # a name
        return True

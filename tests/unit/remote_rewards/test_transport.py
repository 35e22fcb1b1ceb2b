"""One attempt: what is sent, when it is given up, and what its error says."""

import asyncio
import json
import math
import time

import httpx
import pytest

from remote_rewards.transport import (
    POOLS,
    ApiKey,
    Request,
    Transport,
    advertised_timeout_s,
    encode,
    is_plaintext_remote,
    reject_plaintext_key,
)
from shared.errors import (
    InsecureTransport,
    InvalidApiKey,
    InvalidUrl,
    NotSerializable,
    ServiceUnreachable,
    Unauthorized,
)

URL = "http://rewards"
GET = Request("GET", "/v1/rewards")
KEY = "secret-key-of-16-chars"


@pytest.fixture
async def transport():
    """Make transports whose network is a handler of requests."""
    made = []

    def make(handler=lambda request: httpx.Response(200), key=None):
        made.append(Transport(ApiKey(key), 5.0, httpx.MockTransport(handler)))
        return made[-1]

    yield make
    for transport in made:
        await transport.aclose()


def failing(error):
    def handler(request):
        raise error

    return handler


class TestSend:
    @pytest.mark.parametrize(("timeout_s", "advertised_ms"), [(9.0, 8_750), (0.5, 450), (1e6, 3_599_750)])
    async def test_headers(self, transport, timeout_s, advertised_ms):
        """The advertised timeout, the key, and no compression are sent."""
        requests = []
        sender = transport(lambda request: requests.append(request) or httpx.Response(200), KEY)
        await sender.send(URL, GET, time.monotonic() + timeout_s)
        (headers,) = [request.headers for request in requests]
        assert advertised_ms - 250 < int(headers["X-Request-Timeout-Ms"]) <= advertised_ms
        assert (headers["Accept-Encoding"], headers["Authorization"]) == ("identity", f"Bearer {KEY}")
        assert "Content-Type" not in headers

    async def test_body(self, transport):
        """A body is sent as JSON to the endpoint and path."""
        requests = []
        sender = transport(lambda request: requests.append(request) or httpx.Response(200))
        await sender.send(f"{URL}/behind/a/proxy", Request("POST", "/v1/score", b"{}"), time.monotonic() + 9.0)
        (request,) = requests
        assert (request.url, request.content) == (f"{URL}/behind/a/proxy/v1/score", b"{}")
        assert request.headers["Content-Type"] == "application/json"
        assert "Authorization" not in request.headers

    async def test_timeout(self, transport):
        """An attempt without a response ends at its deadline, and says so."""

        async def hang(request):
            await asyncio.Event().wait()

        with pytest.raises(ServiceUnreachable, match=rf"^no response from {URL} within 0\.05 s$"):
            await transport(hang).send(URL, GET, time.monotonic() + 0.05)

    @pytest.mark.parametrize(
        ("error", "message"),
        [
            (httpx.ReadTimeout(""), f"no response from {URL} within 9 s"),
            (httpx.WriteTimeout(""), f"no response from {URL} within 9 s"),
            (httpx.ConnectTimeout("slow"), f"connection to {URL} failed (ConnectTimeout: slow)"),
            (httpx.ReadError("reset"), f"connection to {URL} failed (ReadError: reset)"),
        ],
    )
    async def test_errors(self, transport, error, message):
        """Errors of httpx become one error; only a timeout after the connection is called a missing response."""
        with pytest.raises(ServiceUnreachable) as caught:
            await transport(failing(error)).send(URL, GET, time.monotonic() + 9.0)
        assert str(caught.value) == message
        assert caught.value.__cause__ is error

    @pytest.mark.parametrize("several", [False, True])
    async def test_refused(self, transport, several):
        """A refused connection is called so, also if a host has several addresses."""
        refused, error = ConnectionRefusedError(111), httpx.ConnectError("All connection attempts failed")
        error.__cause__ = OSError("all failed")
        error.__cause__.__cause__ = ExceptionGroup("several", [refused, refused]) if several else refused
        with pytest.raises(ServiceUnreachable, match=f"^connection refused at {URL}$"):
            await transport(failing(error)).send(URL, GET, time.monotonic() + 9.0)

    async def test_problem(self, transport):
        """A response other than 200 raises its error."""
        with pytest.raises(ServiceUnreachable, match="responded with 502"):
            await transport(lambda request: httpx.Response(502)).send(URL, GET, time.monotonic() + 9.0)

    async def test_bounded_pools(self, transport, monkeypatch):
        """However many addresses come and go, the pools are few; a pool is for TLS or for plain HTTP."""
        made, new = [], httpx.AsyncClient
        monkeypatch.setattr(httpx, "AsyncClient", lambda **options: made.append(new(**options)) or made[-1])
        sender = transport()
        for number in range(100):
            await sender.send(f"http://10.0.0.{number}:80", GET, time.monotonic() + 9.0)
        assert POOLS / 2 < len(made) <= POOLS
        plain = len(made)
        for _ in range(2):
            await sender.send("https://10.0.0.1:80", GET, time.monotonic() + 9.0)
        assert len(made) == plain + 1

    @pytest.mark.parametrize("proxy", ["socks5h://127.0.0.1:1080", "proxy.corp:8080x"])
    async def test_invalid_proxy(self, monkeypatch, proxy):
        """A proxy of the environment that cannot be used is reported, and plain HTTP does not use it."""
        monkeypatch.setenv("ALL_PROXY", proxy)
        transport = Transport(ApiKey(None), 5.0)
        with pytest.raises(InvalidUrl, match="ALL_PROXY"):
            await transport.send("https://a:1", GET, time.monotonic() + 5.0)
        with pytest.raises(ServiceUnreachable, match="connection refused"):
            await transport.send("http://127.0.0.1:9", GET, time.monotonic() + 5.0)
        await transport.aclose()


@pytest.mark.parametrize(("remaining_s", "advertised_s"), [(10.0, 9.75), (2.5, 2.25), (1.0, 0.9), (0.0, 0.0)])
def test_advertised_timeout(remaining_s, advertised_s):
    """A service is told to respond a quarter of a second, or a tenth, before the deadline."""
    assert advertised_timeout_s(remaining_s) == pytest.approx(advertised_s)


class TestEncode:
    def test_lone_surrogates(self):
        """Lone surrogates are replaced, since UTF-8 cannot represent them."""
        assert json.loads(encode({"completions": ["a\ud800b"]})) == {"completions": ["a?b"]}

    def test_names_the_column(self):
        """The column that JSON cannot represent is named."""
        deep = None
        for _ in range(100_000):
            deep = [deep]
        for column in ([math.nan], [deep], [object()]):
            with pytest.raises(NotSerializable, match="the column 'odd', which a reward reads, cannot be sent"):
                encode({"completions": ["a"], "columns": {"even": [1], "odd": column}})
        with pytest.raises(NotSerializable, match="a text of 'completions' cannot be sent as JSON"):
            encode({"completions": [object()]})


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "key"
    path.write_text("the-first-key-of-many\n")
    return path


class KeyedService:
    """A service that accepts one key."""

    def __init__(self, accepted):
        self.accepted, self.received = accepted, []

    def __call__(self, request):
        self.received.append(request.headers["Authorization"].removeprefix("Bearer "))
        if self.received[-1] == self.accepted:
            return httpx.Response(200)
        problem = {"title": "t", "status": 401, "detail": "d", "code": "c", "request_id": "1", "retryable": False}
        return httpx.Response(401, json=problem, headers={"Content-Type": "application/problem+json"})


class TestApiKey:
    async def test_reload(self, transport, key_file):
        """A rejected key is read again from its file, and the request sent again."""
        service = KeyedService("the-second-key-of-many")
        sender = transport(service, key_file)
        key_file.write_text("the-second-key-of-many\nthe-first-key-of-many\n")
        await sender.send(URL, GET, time.monotonic() + 9.0)
        assert service.received == ["the-first-key-of-many", "the-second-key-of-many"]

    @pytest.mark.parametrize("content", [None, "", "\n", "ümläuts-of-another-kind\n", "the-first-key-of-many"])
    async def test_no_other_key(self, transport, key_file, content):
        """A rejected key stays, and is not sent again, while its file has no other valid key."""
        service = KeyedService("another-key")
        sender = transport(service, key_file)
        key_file.unlink() if content is None else key_file.write_text(content)
        for _ in range(2):
            with pytest.raises(Unauthorized):
                await sender.send(URL, GET, time.monotonic() + 9.0)
        assert service.received == ["the-first-key-of-many"] * 2

    @pytest.mark.parametrize(("key", "header"), [(f"{KEY}\n", f"Bearer {KEY}"), (" \n", None), (None, None)])
    def test_stripped(self, key, header):
        """A key is sent without surrounding white space, and an empty one not at all."""
        request = next(ApiKey(key).auth_flow(httpx.Request("GET", URL)))
        assert request.headers.get("Authorization") == header

    @pytest.mark.parametrize("key", ["a-canary-key\nof-two-lines", "a-canary-key-of-ümläuts", "a-canary-key of-words"])
    def test_invalid(self, key):
        """A key that cannot be sent raises an error that does not show it."""
        with pytest.raises(InvalidApiKey, match="cannot be sent") as error:
            ApiKey(key)
        assert "canary" not in str(error.value)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (None, r"cannot read the API key file \S*key: FileNotFoundError; write the key into it"),
            (b"", r"key contains no API key: it is empty; write the key into it"),
            (b"\xff\xfe", r"cannot read the API key file \S*key: UnicodeDecodeError"),
        ],
    )
    def test_invalid_file(self, key_file, content, message):
        """A key file without a key raises an error at once."""
        key_file.unlink() if content is None else key_file.write_bytes(content)
        with pytest.raises(InvalidApiKey, match=message):
            ApiKey(key_file)

    def test_repr(self, key_file):
        """A key is not shown, the path of its file is."""
        assert (repr(ApiKey(KEY)), repr(ApiKey(key_file))) == ("ApiKey(…)", f"ApiKey({key_file})")


REMOTE = ["http://a", "http://10.0.0.7:8088", "http://[2001:db8::1]:80", "dns+http://a"]
LOCAL = ["http://localhost:1", "http://127.0.0.1:8088", "http://[::1]:80", "https://a"]


class TestPlaintext:
    @pytest.mark.parametrize(("url", "remote"), [*((url, True) for url in REMOTE), *((url, False) for url in LOCAL)])
    def test_is_plaintext_remote(self, url, remote):
        """Plain HTTP to another machine can be read on the network."""
        assert is_plaintext_remote(url) is remote

    @pytest.mark.parametrize("url", REMOTE)
    def test_rejected(self, url):
        """A key is sent over plain HTTP to another machine only if that is allowed."""
        with pytest.raises(InsecureTransport, match="allow_http"):
            reject_plaintext_key([LOCAL[0], url], allow_http=False)
        reject_plaintext_key([url], allow_http=True)

    @pytest.mark.parametrize("value", ["1", "true", "Yes"])
    def test_allowed_by_environment(self, monkeypatch, value):
        """The environment may allow it."""
        monkeypatch.setenv("REWARD_ALLOW_HTTP", value)
        reject_plaintext_key(REMOTE, allow_http=False)

    @pytest.mark.parametrize("value", ["0", "false", "no", ""])
    def test_denied_by_environment(self, monkeypatch, value):
        """A false value in the environment does not allow it."""
        monkeypatch.setenv("REWARD_ALLOW_HTTP", value)
        with pytest.raises(InsecureTransport):
            reject_plaintext_key(REMOTE, allow_http=False)

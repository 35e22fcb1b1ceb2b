"""URLs are validated and resolved; names are looked up again in the background. The latter in virtual time."""

import asyncio
import re
import socket

import pytest

from remote_rewards.discovery import EndpointSet, reconcile, resolve_url, validate_urls
from remote_rewards.load_balancing import Endpoint
from shared.errors import InvalidUrl, RevisionChanged, ServiceUnreachable
from tests.unit.remote_rewards.conftest import (
    DOWN,
    NAME,
    NEVER,
    REQUEST,
    A,
    B,
    NameServer,
    ScriptedTransport,
    gaps,
    text_of,
)


class TestValidateUrls:
    @pytest.mark.parametrize(
        "url",
        [
            "",
            "localhost:8088",
            "//localhost:8088",
            "ftp://x",
            "dns+https://x:1",
            "http:",
            "http://:8088",
            "http://a..b:1",
            "dns+http://a..b:1",
            f"http://{'a' * 64}:1",
            "http://a b:1",
            "http://a\tb:1",
            "http://a/the way",
            "http://a:99999",
            "http://a:port",
            "http://a:1 ",
            "http://[::1:80",
            "http://a:1?x=1",
            "http://a:1/#there",
        ],
    )
    def test_invalid(self, url):
        """A URL that no service can be reached at raises an error."""
        with pytest.raises(
            InvalidUrl, match=rf"^{re.escape(repr(url))} is not the URL of a reward service; write http"
        ):
            validate_urls(["http://a", url])

    @pytest.mark.parametrize(
        "url",
        [
            "http://user:canary@a:1",
            "https://canary@a",
            "dns+http://user:canary@a:1",
            "http://user:can@ry:canary/@a:1",
            "user:canary@a:1",
        ],
    )
    def test_password(self, url):
        """A URL with a password raises an error that does not show it."""
        with pytest.raises(
            InvalidUrl, match=r"not the URL of a reward service; .* pass the API key separately"
        ) as error:
            validate_urls(["http://a", url])
        assert "canary" not in str(error.value)

    @pytest.mark.parametrize(
        "url",
        [
            "http://a",
            "http://a/of@somebody",
            "https://rewards.example.org/behind/a/proxy/",
            "http://the_service:8088",
            "http://a.:1",
            "http://10.0.0.7:80",
            "http://[2001:db8::1]:80",
            "http://bücher.example",
            "HTTP://A",
            "dns+http://reward",
            "dns+http://reward:8088",
        ],
    )
    def test_valid(self, url):
        """URLs of services behind names, addresses and proxies are valid."""
        validate_urls([url])


@pytest.fixture
def name_server(monkeypatch):
    """Resolve every name to the given hosts."""

    def set_hosts(*hosts):
        async def getaddrinfo(self, host, port, **_):
            if not hosts:
                raise socket.gaierror("Name or service not known")
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in hosts]

        monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)

    return set_hosts


class TestResolveUrl:
    async def test_plain(self):
        """A plain URL stands for itself."""
        assert await resolve_url("https://rewards.example.org") == ["https://rewards.example.org"]

    async def test_name(self, name_server):
        """A name stands for each of its addresses, sorted and once."""
        name_server("10.0.0.2", "10.0.0.1", "10.0.0.2")
        assert await resolve_url("dns+http://reward:8088") == ["http://10.0.0.1:8088", "http://10.0.0.2:8088"]
        assert await resolve_url("dns+http://reward/at") == ["http://10.0.0.1:80/at", "http://10.0.0.2:80/at"]

    async def test_ipv6(self, name_server):
        """An IPv6 address is written in brackets."""
        name_server("10.0.0.1", "2001:db8::1")
        assert await resolve_url("dns+http://reward:8088") == ["http://10.0.0.1:8088", "http://[2001:db8::1]:8088"]

    async def test_unknown_name(self, name_server):
        """An unknown name has no address."""
        name_server()
        assert await resolve_url("dns+http://nowhere:8088") == []


def test_reconcile():
    """An endpoint keeps its state when its name is resolved again."""
    endpoints = [Endpoint("http://10.0.0.1:80", consecutive_failures=3), Endpoint("http://10.0.0.2:80")]
    found = reconcile(endpoints, {"dns+http://reward": ["http://10.0.0.1:80", "http://10.0.0.3:80"]})
    assert [(endpoint.url, endpoint.consecutive_failures) for endpoint in found] == [
        ("http://10.0.0.1:80", 3),
        ("http://10.0.0.3:80", 0),
    ]


def test_calls_that_start_together():
    """Requests count before they are sent, so that of many calls that start at once only the first ones are cut."""
    endpoints = EndpointSet([A, "http://10.0.0.9:80"])
    with endpoints.in_progress(2), endpoints.in_progress(2):
        assert endpoints.replicas_for_a_call(1) == 1
    assert endpoints.replicas_for_a_call(1) == 2


async def test_close_cancels_the_refresh(monkeypatch):
    """Closing a set of endpoints leaves no task behind."""
    names = NameServer([[]], [3600.0])
    monkeypatch.setattr("remote_rewards.discovery.resolve_url", names.resolve_url)
    before, endpoints = asyncio.all_tasks(), EndpointSet([A, NAME])
    assert [endpoint.url for endpoint in await endpoints.resolve((), 0.0)] == [A]
    assert len(asyncio.all_tasks() - before) == 1
    await endpoints.aclose()
    assert asyncio.all_tasks() == before


def other_revision_at_a(response):
    if response.text.endswith(A):
        raise RevisionChanged("another revision")
    return response.text


class TestNames:
    def test_no_address(self, send_to_name):
        """A name without an address is resolved until the deadline."""
        names = NameServer([[]])
        call = send_to_name(names, {}, timeout_s=5.0)
        assert str(call.result) == (
            f"gave up after 0 attempts within 5 s; last error: no address is known for {NAME}; check the name"
        )
        assert 4 <= len(names.asked_s) <= 6

    def test_silent_name_server(self, send_to_name):
        """A name server that never responds does not delay a call past its deadline."""
        call = send_to_name(NameServer([[A]], [NEVER]), {A: [0.0]}, timeout_s=5.0)
        assert isinstance(call.result, ServiceUnreachable)
        assert call.took_s[0] <= 5.1

    def test_refresh_while_calling(self, send_to_name):
        """Names are looked up every five seconds while calls are made, and no call waits for that."""
        names = NameServer([[A]], [0.0, 3.0])
        call = send_to_name(names, {A: [0.5]}, times=60)
        assert call.took_s == pytest.approx([0.5] * 60)
        assert gaps(names.asked_s) == pytest.approx([5.0] * 5)

    def test_refresh_between_calls(self, send_to_name, loop):
        """Names are looked up after the last call, too, as training steps may take minutes, but not for ever."""
        names = NameServer([[A], [B]])
        call = send_to_name(names, {A: [0.0], B: [0.0]})
        loop.run_until_complete(asyncio.sleep(120.0))
        assert loop.run_until_complete(call.sender.send(REQUEST, text_of, loop.now_s + 9.0)) == "response of http://b"
        loop.run_until_complete(asyncio.sleep(3600.0))
        assert names.asked_s[-1] == pytest.approx(120.0 + 300.0, abs=5.0)

    def test_refresh_while_failing(self, send_to_name):
        """While an endpoint fails, names are looked up once a second at most."""
        names = NameServer([[A]])
        send_to_name(names, {A: [DOWN]}, timeout_s=10.0)
        waits_s = gaps(names.asked_s)
        assert len(waits_s) == 3
        assert min(waits_s) >= 1.0

    def test_replica_joins(self, send_to_name):
        """A replica that joins gets its share of the calls within 15 seconds."""
        call = send_to_name(NameServer([[A], [A], [A, B]]), {A: [0.1], B: [0.1]}, times=600)
        urls = [url for when_s, url, _ in call.network.sent if when_s >= 15.0]
        assert urls.count(B) >= 0.4 * len(urls) > 0

    def test_replica_leaves(self, send, loop, monkeypatch):
        """A replica that leaves its name finishes its calls, and gets no others."""
        names = NameServer([[A, B], [B]])
        monkeypatch.setattr("remote_rewards.discovery.resolve_url", names.resolve_url)
        sender = send.sender(ScriptedTransport(loop, {A: [8.0], B: [0.1]}), [NAME])
        calls = [send.call(sender) for _ in range(2)]
        loop.run_until_complete(asyncio.sleep(6.0))
        assert [endpoint.url for endpoint in sender.endpoints.endpoints] == [B]
        assert {loop.run_until_complete(send.call(sender)) for _ in range(9)} == {"response of http://b"}
        assert loop.run_until_complete(asyncio.gather(*calls)) == ["response of http://a", "response of http://b"]

    def test_slow_refresh(self, send_to_name):
        """No call waits for a slow name server while an endpoint is known."""
        names = NameServer([[A, B]], [0.0, 8.0])
        call = send_to_name(names, {A: [0.1], B: [DOWN]}, times=100)
        assert call.result == "response of http://a"
        assert max(call.took_s) < 1.0
        assert len(names.asked_s) == 1 + 2, "one at a time, while an endpoint fails"

    def test_plain_url_beside_a_name(self, send_to_name):
        """A plain URL is used before the name beside it is resolved."""
        call = send_to_name(NameServer([[B]], [8.0]), {A: [0.1]}, A)
        assert (call.result, call.took_s) == ("response of http://a", [pytest.approx(0.1)])

    def test_temporarily_unknown(self, send_to_name):
        """A name that becomes unknown temporarily keeps its endpoints."""
        call = send_to_name(NameServer([[B], []]), {A: [DOWN], B: [DOWN, DOWN, DOWN, DOWN, 0.0]}, A)
        assert call.result == "response of http://b"

    def test_unknown_at_first(self, send_to_name):
        """A name that is unknown at first is resolved again although another endpoint responds."""
        names = NameServer([[], [], [B]])
        call = send_to_name(names, {A: [0.5], B: [0.5]}, A, times=20)
        assert set(call.network.urls) == {A, B}
        assert names.asked_s[:3] == [0.0, 1.0, 2.0]

    def test_same_address_twice(self, send_to_name):
        """An address behind two URLs is one endpoint."""
        call = send_to_name(NameServer([[], [A]]), {A: [DOWN, DOWN, DOWN, DOWN, 0.0]}, A)
        assert [endpoint.url for endpoint in call.sender.endpoints.endpoints] == [A]

    def test_new_replica_while_excluding(self, send_to_name):
        """If all known endpoints are excluded, a new one behind the name is found."""
        call = send_to_name(NameServer([[A], [A, B]]), {A: [1.5], B: [0.5]}, parse=other_revision_at_a)
        assert call.result == "response of http://b"
        assert call.took_s == [pytest.approx(2.0, abs=0.1)]

    def test_last_candidate_leaves(self, send_to_name):
        """The revision mismatch is raised once the only other endpoint has left the name."""
        names = NameServer([[A, B], [A]])
        call = send_to_name(names, {A: [0.0], B: [DOWN]}, parse=other_revision_at_a)
        assert isinstance(call.result, RevisionChanged)
        assert call.took_s[0] < 5.0  # of twenty

    def test_moved_replica(self, send, loop, monkeypatch):
        """A replica that returns at another address is found by all calls that wait."""
        names = NameServer([[A], [B]])
        monkeypatch.setattr("remote_rewards.discovery.resolve_url", names.resolve_url)
        sender = send.sender(ScriptedTransport(loop, {A: [DOWN], B: [0.0]}), [NAME])
        calls = [send.call(sender) for _ in range(16)]
        assert loop.run_until_complete(asyncio.gather(*calls)) == ["response of http://b"] * 16
        assert loop.now_s - 1000.0 < 5.0

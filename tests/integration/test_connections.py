"""Connections: late and oversized heads, `Upgrade` headers, unread responses, rejections before the body."""

import asyncio
import json
import socket
import time

import httpx
import pytest

from reward_service.errors import Overloaded
from reward_service.http_protocol import HEADER_TIMEOUT_S, MAX_HEAD_BYTES, strip_upgrade_header
from reward_service.settings import Settings
from tests.conftest import RULES, Plain, running_service, wait_for

KEY = "a-key-of-many-letters"


def connected(url):
    """Connect with a timeout below the header timeout: a close comes from the size limit, not from the timeout."""
    return socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=HEADER_TIMEOUT_S / 2)


def is_closed(connection):
    """Return whether the service closes the connection."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_header_timeout(monkeypatch):
    """A connection whose head does not arrive is closed; an idle one that has been used is not."""
    monkeypatch.setattr("reward_service.http_protocol.HEADER_TIMEOUT_S", 0.3)
    with running_service() as url:
        with connected(url) as slow:
            slow.sendall(b"POST /v1/score HTTP/1.1\r\nX: ")
            assert is_closed(slow)
        with httpx.Client() as client:
            for _ in range(2):
                assert client.get(f"{url}/health/live").status_code == 200


def test_body_timeout():
    """A body that does not arrive is answered with 408."""
    with running_service(Settings(config=RULES, body_timeout_s=0.3)) as url, connected(url) as slow:
        slow.sendall(
            b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
        )
        assert slow.recv(100).startswith(b"HTTP/1.1 408")


def test_head_limit(rules_url):
    """A connection whose head does not end is closed."""
    with connected(rules_url) as endless:
        endless.sendall(b"GET /health/live HTTP/1.1\r\nX: " + b"x" * 2 * MAX_HEAD_BYTES)
        assert is_closed(endless)


def test_upgrade_is_ignored(rules_url):
    """An `Upgrade` header, which Java's client sends with each request, changes nothing (RFC 9110, 7.8)."""
    offer = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAEAAEAA"}
    with httpx.Client() as client:
        for ending in ("banana", "pear"):
            texts = [f"Upgrade: h2c\r\n\r\n {ending}"]
            upgrading = client.post(f"{rules_url}/v1/score", json={"completions": texts}, headers=offer)
            assert upgrading.status_code == 200, upgrading.text
            plain = client.post(f"{rules_url}/v1/score", json={"completions": texts})
            assert upgrading.json()["rewards"] == plain.json()["rewards"]


JAVA = (
    b"POST /v1/score HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nContent-Length: 27\r\nHost: x\r\n"
    b"HTTP2-Settings: AAEAAEAA\r\nUpgrade: h2c\r\nContent-Type: application/json\r\n\r\n"
)


@pytest.mark.parametrize("head", [JAVA, JAVA.replace(b"Upgrade: h2c\r\n", b"")[:-2] + b"Upgrade: h2c\r\n\r\n"])
def test_upgrade_split_anywhere(head):
    """The `Upgrade` header is removed wherever the head is split in two."""
    whole = head.replace(b"\r\nUpgrade: h2c", b"", 1) + b"{}"
    for cut in range(1, len(head)):
        first, held = strip_upgrade_header(head[:cut])
        second, rest = strip_upgrade_header(held + head[cut:] + b"{}")
        assert (first + second, rest) == (whole, b""), cut


def test_upgrade_byte_by_byte():
    """The `Upgrade` header is removed from a head that arrives byte by byte."""
    read, held = b"", b""
    for byte in JAVA:
        parsed, held = strip_upgrade_header(held + bytes([byte]))
        read += parsed
    assert (read, held) == (JAVA.replace(b"\r\nUpgrade: h2c", b""), b"")


def test_head_limit_when_pipelined():
    """The head limit also holds behind a request in flight."""

    class Blocking(Busy):
        async def score(self, items):
            await (asyncio.Event().wait() if items.completions == ["a"] else asyncio.sleep(0))
            return await super().score(items)

    def keep_sending(connection):
        for _ in range(500):  # more than the socket buffers hold
            connection.sendall(b"x" * MAX_HEAD_BYTES)

    with running_service(rewards={"busy": Blocking(0.0)}) as url, connected(url) as endless:
        endless.sendall(head(60_000) + json.dumps({"completions": ["a"]}).encode().ljust(999))
        endless.sendall(b"GET /health/live HTTP/1.1\r\nX: ")
        with pytest.raises(ConnectionError):
            keep_sending(endless)


def test_write_timeout(monkeypatch):
    """The connection of a client that does not read its responses is aborted."""
    monkeypatch.setattr("reward_service.http_protocol.WRITE_TIMEOUT_S", 0.3)
    with running_service() as url, connected(url) as unread:
        unread.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        unread.setblocking(False)
        wait_for(lambda: not accepts(unread, b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"))


def accepts(connection, data):
    """Send without reading; return whether the connection is still open."""
    try:
        connection.send(data)
    except BlockingIOError:
        return True
    except ConnectionError:
        return False
    return True


def test_disconnect_during_body(rules_url):
    """A client that disconnects during its body counts as 499, not as 500."""
    with connected(rules_url) as leaving:
        leaving.sendall(
            b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
        )
    wait_for(lambda: 'code="499"' in httpx.get(f"{rules_url}/metrics").text)
    assert 'code="500"' not in httpx.get(f"{rules_url}/metrics").text


def test_rejection_before_the_body():
    """A request rejected before its body is read is answered, and the connection stays usable."""
    with running_service(Settings(config=RULES, api_keys=[KEY])) as url, httpx.Client() as client:
        for _ in range(3):
            refused = client.post(f"{url}/v1/score", content=b"x" * 5_000_000, headers={"Content-Type": "text/plain"})
            assert refused.status_code == 401
            assert client.get(f"{url}/health/live").status_code == 200


class Busy(Plain):
    """A reward with a backlog: requests with less than three times its seconds are overloaded."""

    backlog_s = 0.0

    def __init__(self, backlog_s=20.0):
        self.backlog_s = backlog_s

    def check_deadline(self, deadline_s):
        if deadline_s - time.monotonic() < 3 * self.backlog_s:
            raise Overloaded("a backlog", retry_after_s=self.backlog_s)


def head(timeout_ms):
    return (
        b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 999\r\n"
        b"X-Request-Timeout-Ms: %d\r\n\r\n" % timeout_ms
    )


def test_load_shedding():
    """A request that no queue can serve in time gets 429 before its body, with the shortest backlog as Retry-After."""
    rewards = {"busier": Busy(30.0), "busy": Busy(20.0)}
    with running_service(rewards=rewards) as url, connected(url) as caller, httpx.Client() as client:
        caller.sendall(head(59_000))
        response = caller.recv(1000)
        assert response.startswith(b"HTTP/1.1 429"), response
        assert b"retry-after: 20\r\n" in response.lower()
        patient = client.post(f"{url}/v1/score", json={"completions": ["a"]}, headers={"X-Request-Timeout-Ms": "61000"})
        assert patient.status_code == 200
        metrics = client.get(f"{url}/metrics").text
        assert 'reward_rejected_total{reason="overloaded"} 1.0' in metrics
        assert 'reward_requests_total{code="429",route="/v1/score"} 1.0' in metrics


def test_no_shedding_with_one_free_reward():
    """Load is not shed while one reward has no backlog."""
    with running_service(rewards={"plain": Plain(), "busy": Busy()}) as url, httpx.Client() as client:
        response = client.post(f"{url}/v1/score", json={"completions": ["a"]}, headers={"X-Request-Timeout-Ms": "1000"})
        assert response.status_code == 200


def test_authentication_before_shedding():
    """A client without a key gets 401, not the backlog."""
    settings = Settings(config=RULES, api_keys=[KEY])
    with running_service(settings, {"busy": Busy()}) as url, connected(url) as caller:
        caller.sendall(head(1000))
        assert caller.recv(100).startswith(b"HTTP/1.1 401")

"""Connections that bring a request too slowly, too long, or one that is refused before it is whole."""

import asyncio
import json
import socket
import time

import httpx
import pytest

from reward_service.errors import Overloaded
from reward_service.http_protocol import HEAD_BYTES, HEADERS_S, without_upgrade
from reward_service.settings import Settings
from tests.conftest import RULES, Plain, running_service, wait_for

KEY = "a-key-of-many-letters"


def connected(url):
    """Connect, with less patience than the service has: it is closed for its length, not for its time."""
    return socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=HEADERS_S / 2)


def is_closed(connection):
    """Wait until the service has closed it."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_request_whose_head_does_not_come_is_given_up(monkeypatch):
    monkeypatch.setattr("reward_service.http_protocol.HEADERS_S", 0.3)
    with running_service() as url:
        with connected(url) as slow:
            slow.sendall(b"POST /v1/score HTTP/1.1\r\nX: ")
            assert is_closed(slow)
        with httpx.Client() as kept:
            for _ in range(2):
                assert kept.get(f"{url}/health/live").status_code == 200


def test_a_body_that_does_not_come_is_told_of():
    with running_service(Settings(config=RULES, body_timeout_s=0.3)) as url, connected(url) as slow:
        slow.sendall(
            b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
        )
        assert slow.recv(100).startswith(b"HTTP/1.1 408")


def test_a_head_without_end_is_cut_off(rules_url):
    with connected(rules_url) as endless:
        endless.sendall(b"GET /health/live HTTP/1.1\r\nX: " + b"x" * 2 * HEAD_BYTES)
        assert is_closed(endless)


def test_an_offer_to_speak_another_protocol_is_passed_over(rules_url):
    """Java's client offers HTTP/2 with each request, which costs the request nothing (RFC 9110, 7.8)."""
    offer = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAEAAEAA"}
    with httpx.Client() as client:
        for ending in ("banana", "pear"):
            texts = [f"Upgrade: h2c\r\n\r\n {ending}"]
            asked = client.post(f"{rules_url}/v1/score", json={"completions": texts}, headers=offer)
            assert asked.status_code == 200, asked.text
            plain = client.post(f"{rules_url}/v1/score", json={"completions": texts})
            assert asked.json()["rewards"] == plain.json()["rewards"]


JAVA = (
    b"POST /v1/score HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nContent-Length: 27\r\nHost: x\r\n"
    b"HTTP2-Settings: AAEAAEAA\r\nUpgrade: h2c\r\nContent-Type: application/json\r\n\r\n"
)


@pytest.mark.parametrize("head", [JAVA, JAVA.replace(b"Upgrade: h2c\r\n", b"")[:-2] + b"Upgrade: h2c\r\n\r\n"])
def test_an_offer_is_passed_over_wherever_the_network_cuts_it(head):
    whole = head.replace(b"\r\nUpgrade: h2c", b"", 1) + b"{}"
    for cut in range(1, len(head)):
        first, held = without_upgrade(head[:cut])
        second, rest = without_upgrade(held + head[cut:] + b"{}")
        assert (first + second, rest) == (whole, b""), cut


def test_a_head_that_comes_byte_by_byte_is_whole_at_its_end():
    read, held = b"", b""
    for byte in JAVA:
        passed, held = without_upgrade(held + bytes([byte]))
        read += passed
    assert (read, held) == (JAVA.replace(b"\r\nUpgrade: h2c", b""), b"")


def test_a_head_without_end_is_cut_off_behind_a_request_that_is_under_way_too():
    class Waits(Busy):
        async def score(self, items):
            await (asyncio.Event().wait() if items.completions == ["a"] else asyncio.sleep(0))
            return await super().score(items)

    def go_on(connection):
        for _ in range(500):  # more than there is room for on the way
            connection.sendall(b"x" * HEAD_BYTES)

    with running_service(rewards={"busy": Waits(0.0)}) as url, connected(url) as endless:
        endless.sendall(head(60_000) + json.dumps({"completions": ["a"]}).encode().ljust(999))
        endless.sendall(b"GET /health/live HTTP/1.1\r\nX: ")
        with pytest.raises(ConnectionError):
            go_on(endless)


def test_who_does_not_read_its_answers_is_left(monkeypatch):
    monkeypatch.setattr("reward_service.http_protocol.UNREAD_S", 0.3)
    with running_service() as url, connected(url) as unread:
        unread.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        unread.setblocking(False)
        wait_for(lambda: not takes(unread, b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"))


def takes(connection, data):
    """Send, without reading; tell whether the service still holds the connection."""
    try:
        connection.send(data)
    except BlockingIOError:
        return True
    except ConnectionError:
        return False
    return True


def test_who_leaves_in_the_middle_of_a_body_is_no_fault_of_the_service(rules_url):
    with connected(rules_url) as leaving:
        leaving.sendall(
            b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
        )
    wait_for(lambda: 'code="499"' in httpx.get(f"{rules_url}/metrics").text)
    assert 'code="500"' not in httpx.get(f"{rules_url}/metrics").text


def test_a_refused_request_is_answered_though_its_body_still_comes_and_the_connection_lives_on():
    with running_service(Settings(config=RULES, api_keys=[KEY])) as url, httpx.Client() as client:
        for _ in range(3):
            refused = client.post(f"{url}/v1/score", content=b"x" * 5_000_000, headers={"Content-Type": "text/plain"})
            assert refused.status_code == 401
            assert client.get(f"{url}/health/live").status_code == 200


class Busy(Plain):
    """A reward whose line is too long for whoever waits less than a minute."""

    def __init__(self, backlog_s=20.0):
        self.backlog_s = backlog_s

    def check_deadline(self, deadline_s):
        if deadline_s - time.monotonic() < 3 * self.backlog_s:
            raise Overloaded("a long line", retry_after_s=self.backlog_s)


def head(patience_ms):
    return (
        b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 999\r\n"
        b"X-Request-Timeout-Ms: %d\r\n\r\n" % patience_ms
    )


def test_whoever_would_be_late_is_refused_before_its_body_is_here_and_told_of_the_shortest_line():
    rewards = {"busier": Busy(30.0), "busy": Busy(20.0)}
    with running_service(rewards=rewards) as url, connected(url) as caller, httpx.Client() as client:
        caller.sendall(head(59_000))
        told = caller.recv(1000)
        assert told.startswith(b"HTTP/1.1 429"), told
        assert b"retry-after: 20\r\n" in told.lower()
        patient = client.post(f"{url}/v1/score", json={"completions": ["a"]}, headers={"X-Request-Timeout-Ms": "61000"})
        assert patient.status_code == 200
        figures = client.get(f"{url}/metrics").text
        assert 'reward_rejected_total{reason="queue_full"} 1.0' in figures
        assert 'reward_requests_total{code="429",route="/v1/score"} 1.0' in figures


def test_where_one_reward_has_no_line_what_is_asked_is_read():
    with running_service(rewards={"plain": Plain(), "busy": Busy()}) as url, httpx.Client() as client:
        answer = client.post(f"{url}/v1/score", json={"completions": ["a"]}, headers={"X-Request-Timeout-Ms": "1000"})
        assert answer.status_code == 200


def test_whoever_has_no_key_is_not_told_how_long_the_line_is():
    settings = Settings(config=RULES, api_keys=[KEY])
    with running_service(settings, {"busy": Busy()}) as url, connected(url) as caller:
        caller.sendall(head(1000))
        assert caller.recv(100).startswith(b"HTTP/1.1 401")

"""One attempt, against servers that answer as no service would: what is sent, and when it is given up."""

import asyncio
import contextlib
import socket
import subprocess
import sys
import time

import pytest

from remote_rewards import RewardClient
from remote_rewards.keys import ApiKey
from remote_rewards.transport import Call, Transport
from shared.errors import InvalidUrl, RewardError, ServiceUnreachable
from tests.conftest import running_service

GET = Call("GET", "/v1/rewards")
KEY = "a-key-of-many-letters"


@contextlib.asynccontextmanager
async def serving(answer):
    """Serve at a free port: `answer(head, writer)` writes what it likes. Give the address and the heads that came."""
    heads = []

    async def handle(reader, writer):
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        with contextlib.suppress(ConnectionError):
            await answer(writer)
        writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", heads


@pytest.mark.parametrize("proxy", ["socks5h://127.0.0.1:1080", "proxy.corp:8080x"])
def test_a_proxy_that_cannot_be_used_is_told_where_it_would_be(monkeypatch, rules_url, proxy):
    monkeypatch.setenv("ALL_PROXY", proxy)
    with RewardClient("https://a:1", timeout_s=5) as client, pytest.raises(InvalidUrl, match="ALL_PROXY"):
        client.info()
    with RewardClient(rules_url, timeout_s=5) as client:
        assert client.info().rewards


async def nothing_more(writer):
    writer.write(b"HTTP/1.1 204 No Content\r\nContent-Type: application/json\r\n\r\n")


async def a_byte_at_a_time(writer):
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 60\r\n\r\n")
    for _ in range(60):
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.05)


def told_ms(head):
    return int(head.lower().partition(b"x-request-timeout-ms: ")[2].split()[0])


async def test_what_time_is_left_the_key_and_that_nothing_is_to_be_compressed_are_sent():
    transport = Transport(ApiKey(KEY), connect_timeout_s=5.0)
    async with serving(nothing_more) as (url, heads):
        for left_s in (9.0, 0.5):
            with contextlib.suppress(RewardError):
                await transport.send(url, GET, time.monotonic() + left_s)
        await transport.aclose()
    long, short = heads
    assert 8_000 < told_ms(long) <= 8_750, "its answer has a quarter of a second to arrive"
    assert 0 < told_ms(short) <= 450
    assert b"\r\naccept-encoding: identity\r\n" in long.lower()
    assert f"\r\nAuthorization: Bearer {KEY}\r\n".encode() in long


async def test_an_answer_that_comes_a_byte_at_a_time_is_given_up_when_the_time_is_over():
    transport = Transport(ApiKey(None), connect_timeout_s=5.0)
    async with serving(a_byte_at_a_time) as (url, _):
        began_s = time.monotonic()
        with pytest.raises(ServiceUnreachable, match=rf"^{url} has not answered within 0\.3 s$"):
            await transport.send(url, GET, time.monotonic() + 0.3)
        assert time.monotonic() - began_s < 2.0  # the whole answer takes three
        await transport.aclose()


async def test_addresses_that_come_and_go_share_one_set_of_connections():
    transport = Transport(ApiKey(None), connect_timeout_s=5.0)
    for _ in range(3):
        async with serving(nothing_more) as (url, heads):
            with contextlib.suppress(RewardError):
                await transport.send(url, GET, time.monotonic() + 9.0)
            assert len(heads) == 1
    (connections,) = transport._clients.values()
    assert len(connections) == 1
    await transport.aclose()


@contextlib.contextmanager
def deaf():
    """Give an address that takes no connection."""
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):  # those whom nobody accepts fill its queue
            caller = stack.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(full.getsockname())
        yield f"http://127.0.0.1:{full.getsockname()[1]}"


def test_a_replica_that_takes_no_connection_costs_the_time_to_connect_and_not_the_attempt():
    with (
        deaf() as silent,
        running_service() as url,
        RewardClient([silent, url], timeout_s=6.0, connect_timeout_s=0.2) as client,
    ):
        assert client.info().limits


async def test_what_takes_no_connection_is_not_said_to_have_been_asked():
    transport = Transport(ApiKey(None), connect_timeout_s=5.0)
    with deaf() as url, pytest.raises(ServiceUnreachable, match=f"^no reward service answers at {url}"):
        await transport.send(url, GET, time.monotonic() + 2.0)
    await transport.aclose()


async def test_connections_may_be_closed_before_there_are_any():
    await RewardClient("http://127.0.0.1:9").aclose()


def test_a_program_that_does_not_close_its_client_ends(tmp_path):
    with running_service() as url:
        program = f"from remote_rewards import RewardClient; print(RewardClient({url!r}).info().service)"
        ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (ended.stdout, ended.returncode) == ("remote-rewards\n", 0)

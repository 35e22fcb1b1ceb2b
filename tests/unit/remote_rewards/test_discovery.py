import asyncio
import re
import socket

import pytest

from remote_rewards import RewardClient
from remote_rewards.discovery import addresses_of, refreshed
from remote_rewards.load_balancing import Endpoint
from shared.errors import InvalidUrl, ServiceUnreachable


def resolving(monkeypatch, *hosts):
    async def getaddrinfo(self, host, port, **_):
        assert host == "reward" or not hosts
        if not hosts:
            raise socket.gaierror("Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in hosts]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)


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
def test_what_no_service_can_be_reached_at_is_refused_when_the_client_is_made(url):
    with pytest.raises(InvalidUrl, match=rf"^{re.escape(repr(url))} is no address of a reward service; write http://h"):
        RewardClient(["http://a", url])


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
def test_a_password_in_an_address_is_refused_and_not_told(url):
    with pytest.raises(InvalidUrl, match=r"is no address of a reward service; .* give a key apart") as refused:
        RewardClient(["http://a", url])
    assert "canary" not in str(refused.value)


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
def test_what_one_may_be_reached_at_is_taken(url):
    assert RewardClient(url).urls == [url.rstrip("/")]


async def test_a_plain_url_is_one_replica():
    assert await addresses_of("https://rewards.example.org") == ["https://rewards.example.org"]


async def test_a_name_is_as_many_replicas_as_it_has_addresses(monkeypatch):
    resolving(monkeypatch, "10.0.0.2", "10.0.0.1", "10.0.0.2")
    assert await addresses_of("dns+http://reward:8088") == ["http://10.0.0.1:8088", "http://10.0.0.2:8088"]
    assert await addresses_of("dns+http://reward/at") == ["http://10.0.0.1:80/at", "http://10.0.0.2:80/at"]


async def test_an_address_of_the_newer_kind_stands_in_brackets(monkeypatch):
    resolving(monkeypatch, "10.0.0.1", "2001:db8::1")
    assert await addresses_of("dns+http://reward:8088") == ["http://10.0.0.1:8088", "http://[2001:db8::1]:8088"]


def test_what_is_known_of_a_replica_stays_when_names_are_looked_up_again():
    known = [Endpoint("http://10.0.0.1:80", failures=3), Endpoint("http://10.0.0.2:80")]
    found = refreshed(known, {"dns+http://reward": ["http://10.0.0.1:80", "http://10.0.0.3:80"]})
    assert [(each.url, each.failures) for each in found] == [("http://10.0.0.1:80", 3), ("http://10.0.0.3:80", 0)]


async def test_a_name_that_nobody_knows_is_told_of(monkeypatch):
    resolving(monkeypatch)
    client = RewardClient("dns+http://nowhere:8088", timeout_s=1.5)
    with pytest.raises(ServiceUnreachable, match="no address is known"):
        await client.ainfo()


def test_a_name_of_this_machine_is_asked_at_its_address(rules_url):
    port = rules_url.rpartition(":")[2]
    with RewardClient(f"dns+http://localhost:{port}") as client:
        assert client.score(["Sure: banana"]).rewards["banana"].scores == [1.99]


async def test_a_replica_that_comes_back_at_another_address_is_found_by_all_who_wait(rules_url, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        gone = f"http://127.0.0.1:{closed.getsockname()[1]}"
    looked_up = []

    async def addresses(url):
        looked_up.append(url)
        return [gone] if len(looked_up) < 2 else [rules_url]

    monkeypatch.setattr("remote_rewards.discovery.addresses_of", addresses)
    client = RewardClient("dns+http://reward:8088", timeout_s=20)  # one after the other they would take 24 s
    answers = await asyncio.gather(*(client.ascore(["Sure: banana"], rewards=["banana"]) for _ in range(16)))
    await client.aclose()
    assert [answer.rewards["banana"].scores for answer in answers] == [[1.99]] * 16


async def test_a_client_that_is_closed_leaves_no_look_up_behind(rules_url, monkeypatch):
    looked_up = []

    async def addresses(url):
        looked_up.append(url)
        if len(looked_up) > 1:
            await asyncio.Event().wait()
        return [rules_url]

    monkeypatch.setattr("remote_rewards.discovery.addresses_of", addresses)
    client = RewardClient("dns+http://reward:8088", timeout_s=20)
    before = asyncio.all_tasks()
    await client.ainfo()
    client._asker.replicas.endpoints[0].failures = 1
    client._asker.replicas._look_up_s = 0.0
    await client.ainfo()
    assert len(asyncio.all_tasks() - before) == 1
    await client.aclose()
    assert len(looked_up) == 2
    assert asyncio.all_tasks() == before

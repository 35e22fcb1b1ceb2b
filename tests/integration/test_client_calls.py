"""A client's calls to real services and sockets."""

import asyncio
import contextlib
import multiprocessing
import socket
import subprocess
import sys
import time

import pytest

from remote_rewards import RewardClient
from remote_rewards.transport import ApiKey, Request, Transport
from reward_service.rewards.base import Reward, Scores
from reward_service.settings import Settings
from shared.errors import BadRequest, RevisionChanged, ServiceUnreachable
from shared.schemas import RewardInfo
from tests.conftest import RULES, running_service


class Echo(Reward):
    """A reward whose details are what it was given."""

    info = RewardInfo(name="echo", kind="function", description="", revision="1")
    accepts_canary = False

    async def score(self, items):
        details = [
            {"completion": completion, "prompt": (items.prompts or [None] * len(items))[index]}
            | {name: values[index] for name, values in items.columns.items()}
            for index, completion in enumerate(items.completions)
        ]
        return Scores(scores=[float(len(text)) for text in items.completions], details=details)


class Other(Echo):
    info = RewardInfo(name="other", kind="function", description="", revision="1")


class Newer(Echo):
    info = RewardInfo(name="echo", kind="function", description="", revision="2")


TEXTS, PROMPTS, COLUMNS = ["a", "bb", "ccc"], ["p", "q", "r"], {"answer": (1, 2, 3)}
GIVEN = [
    {"completion": text, "prompt": prompt, "answer": answer}
    for text, prompt, answer in zip(TEXTS, PROMPTS, COLUMNS["answer"], strict=True)
]


@pytest.fixture(scope="module")
def url():
    settings = Settings(config=RULES, max_request_texts=2)
    with running_service(settings, {"echo": Echo(), "other": Other()}) as address:
        yield address


def ascore(client, *args, **kwargs):
    async def call():
        try:
            return await client.ascore(*args, **kwargs)
        finally:
            await client.aclose()

    return asyncio.run(call())


@pytest.mark.parametrize("score", [RewardClient.score, ascore], ids=["score", "ascore"])
def test_request_arrives(url, score):
    """Prompts, columns, rewards and details reach the service with the completions."""
    with RewardClient(url) as client:
        rewards = score(client, TEXTS, PROMPTS, COLUMNS, ["echo"], details=True).rewards
        assert set(rewards) == {"echo"}
        assert (rewards["echo"].scores, rewards["echo"].details) == ([1.0, 2.0, 3.0], GIVEN)
        assert score(client, TEXTS, rewards=["other"]).rewards["other"].details is None
        with pytest.raises(RevisionChanged, match="'echo' changed"):
            score(client, TEXTS, rewards=["echo"], revisions={"echo": "another"})


def score_in_child(client, results):
    results.put(client.score(TEXTS, rewards=["echo"]).rewards["echo"].scores)
    client.close()


def test_fork(url):
    """A forked process scores with the client of its parent, which both may go on to use."""
    fork = multiprocessing.get_context("fork")
    results = fork.Queue()
    with RewardClient(url) as client:
        client.score(TEXTS, rewards=["echo"])
        child = fork.Process(target=score_in_child, args=[client, results], daemon=True)
        child.start()
        assert results.get(timeout=30) == [1.0, 2.0, 3.0]
        child.join(10)
        assert child.exitcode == 0
        assert client.score(TEXTS, rewards=["echo"]).rewards["echo"].scores == [1.0, 2.0, 3.0]


def test_unclosed_client(url):
    """A program that does not close its client ends."""
    program = f"from remote_rewards import RewardClient; print(RewardClient({url!r}).info().service)"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (ended.stdout, ended.returncode) == ("remote-rewards\n", 0)


def test_replicas_of_two_revisions(url):
    """A call in chunks is scored whole by one of two replicas with different revisions."""
    settings = Settings(config=RULES, max_request_texts=2)
    with running_service(settings, {"echo": Newer()}) as newer, RewardClient([url, newer]) as client:
        results = [client.score(["a"] * 7, rewards=["echo"]).rewards["echo"] for _ in range(5)]
    assert {len(reward.scores) for reward in results} == {7}
    assert {reward.revision for reward in results} <= {"1", "2"}


class Counted(Echo):
    def __init__(self):
        self.calls = 0

    async def score(self, items):
        self.calls += 1
        return await super().score(items)


def test_call_is_shared():
    """One call is cut over all replicas, and its scores come back in order."""
    replicas, texts = [Counted(), Counted()], ["x" * index for index in range(64)]
    with (
        running_service(rewards={"echo": replicas[0]}) as one,
        running_service(rewards={"echo": replicas[1]}) as other,
        RewardClient([one, other]) as client,
    ):
        scores = client.score(texts, [f"p{index}" for index in range(64)], rewards=["echo"], details=True)
    assert scores.rewards["echo"].scores == [float(index) for index in range(64)]
    assert [detail["prompt"] for detail in scores.rewards["echo"].details] == [f"p{index}" for index in range(64)]
    assert [replica.calls for replica in replicas] == [1, 1]


def test_pin_is_sent_along(url):
    """A replica with another revision than the pinned one scores nothing."""
    counted = Counted()
    with running_service(rewards={"echo": counted}) as other, RewardClient([other, url]) as client:
        counted.info = Newer.info
        for _ in range(5):
            assert client.score(["a"], rewards=["echo"], revisions={"echo": "1"}).rewards["echo"].revision == "1"
    assert counted.calls == 0


@pytest.mark.parametrize("order", [1, -1])
def test_replicas_of_two_limits(url, order):
    """Replicas may accept different numbers of completions."""
    with running_service(rewards={"echo": Echo()}) as many, RewardClient([url, many][::order]) as client:
        for _ in range(4):
            assert client.score(TEXTS * 3, rewards=["echo"]).rewards["echo"].scores == [1.0, 2.0, 3.0] * 3


@pytest.mark.parametrize("completions", [["a" * 300_000, "b", "c", "d"], ["a" * 300_000]])
def test_too_large(completions):
    """A completion that no replica accepts raises the service's error."""
    settings = Settings(config=RULES, max_body_bytes=100_000)
    with running_service(settings, {"echo": Echo()}) as narrow, RewardClient(narrow) as client:
        with pytest.raises(BadRequest, match="may have 100000 bytes"):
            client.score(completions)
        assert client.score(["a"], rewards=["echo"])


def test_invalid_request(url):
    """An invalid request raises the service's error."""
    with RewardClient(url) as client, pytest.raises(BadRequest, match="columns"):
        client.score(TEXTS, columns={"answer": [1]})


def test_dns_name(rules_url):
    """A name of this machine resolves to its address."""
    port = rules_url.rpartition(":")[2]
    with RewardClient(f"dns+http://localhost:{port}") as client:
        assert client.score(["Sure: banana"]).rewards["banana"].scores == [1.99]


@contextlib.contextmanager
def unaccepting():
    """Yield a URL at which no connection is accepted."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):  # fill its backlog
            caller = stack.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(server.getsockname())
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_connect_timeout(rules_url):
    """A replica that accepts no connection costs the connect timeout, not that of the attempt."""
    with (
        unaccepting() as silent,
        RewardClient([silent, rules_url], timeout_s=6.0, connect_timeout_s=0.2) as client,
    ):
        assert client.info().limits


GET = Request("GET", "/v1/rewards")


@pytest.fixture
async def transport():
    transport = Transport(ApiKey(None), connect_timeout_s=5.0)
    yield transport
    await transport.aclose()


async def test_no_connection(transport):
    """Without a connection the error does not say that the service has not responded."""
    with unaccepting() as url, pytest.raises(ServiceUnreachable, match=f"^connection to {url} failed"):
        await transport.send(url, GET, time.monotonic() + 2.0)


async def test_slow_body(transport):
    """A response that arrives byte by byte is given up at the deadline of the attempt."""

    async def respond(reader, writer):
        with contextlib.suppress(ConnectionError):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 60\r\n\r\n")
            for _ in range(60):
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.05)
        writer.close()

    async with await asyncio.start_server(respond, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        started_s = time.monotonic()
        with pytest.raises(ServiceUnreachable, match=rf"^no response from {url} within 0\.3 s$"):
            await transport.send(url, GET, time.monotonic() + 0.3)
    assert time.monotonic() - started_s < 2.0  # the whole response takes three


def test_service_dies(caplog):
    """The death of a service is logged within 2 s, with what is wrong and the time left."""
    with running_service(rewards={"echo": Echo()}) as url:
        client = RewardClient(url, timeout_s=2.0)
        client.score(["a"])
    started_s = time.time()
    with pytest.raises(ServiceUnreachable, match=f"last error: connection refused at {url}; start it with"):
        client.score(["a"])
    client.close()
    first = next(record for record in caplog.records if record.name == "remote_rewards")
    assert first.created - started_s < 2.0
    assert first.getMessage().endswith(f"connection refused at {url}; 2 s left")

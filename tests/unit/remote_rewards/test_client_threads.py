"""The client's threads and event loops: reuse, copies, closing and cancelling."""

import asyncio
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from remote_rewards import RewardClient
from shared.errors import RewardError
from tests.unit.remote_rewards.service_in_memory import TEXTS, Service, client_of, echo


def client_threads():
    return [thread for thread in threading.enumerate() if thread.name == "reward-client"]


class TestThreads:
    def test_reuse_and_copy(self):
        """A client may be used again after it was closed, and copied while it is used."""
        client = client_of(Service())
        for used in (client, client, pickle.loads(pickle.dumps(client))):
            assert echo(used)[0] == [1.0, 2.0, 3.0]
            assert echo(pickle.loads(pickle.dumps(used)))[0] == [1.0, 2.0, 3.0]
            used.close()
            used.close()

    def test_one_thread(self):
        """Threads that call first at the same time share one event loop, and closing ends its thread."""
        before, ready = len(client_threads()), threading.Barrier(16)

        def call(client):
            ready.wait(10)
            return echo(client)[0]

        with client_of(Service()) as client, ThreadPoolExecutor(16) as pool:
            assert list(pool.map(call, [client] * 16)) == [[1.0, 2.0, 3.0]] * 16
            assert len(client_threads()) == before + 1
            assert all(thread.daemon for thread in client_threads())
        assert len(client_threads()) == before

    def test_thread_cannot_start(self, monkeypatch):
        """After the thread could not be started, the next call tries again."""
        start, failures = threading.Thread.start, iter([True])

        def start_once_failing(thread):
            if thread.name == "reward-client" and next(failures, False):
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", start_once_failing)
        with client_of(Service()) as client:
            with pytest.raises(RuntimeError):
                client.info()
            assert client.info().limits

    def test_closed_while_in_flight(self):
        """A call in flight when its client is closed raises an error; the client may be used again."""
        started, errors = threading.Event(), []

        async def hang_once(request):
            if not started.is_set():
                started.set()
                await asyncio.Event().wait()
            return Service()(request)

        def call():
            with pytest.raises(RewardError) as error:
                client.score(TEXTS)
            errors.append(str(error.value))

        client = RewardClient("http://a", transport=httpx.MockTransport(hang_once))
        caller = threading.Thread(target=call, daemon=True)
        caller.start()
        assert started.wait(10)
        client.close()
        caller.join(3)
        assert errors == ["reward-client was closed while a call was in flight"]
        assert client.info().limits
        client.close()


class Connections(httpx.AsyncBaseTransport):
    """Counts how often it is closed."""

    def __init__(self):
        self.closed = 0

    async def handle_async_request(self, request):
        return Service()(request)

    async def aclose(self):
        self.closed += 1


class TestEventLoops:
    async def test_close_before_use(self):
        """A client may be closed before it is used."""
        await RewardClient("http://a").aclose()

    def test_connections_of_a_loop(self):
        """Each event loop has connections of its own, which closing the client on another one leaves open."""
        connections = Connections()
        with RewardClient("http://a", transport=connections) as client:
            client.info()

            async def used_and_closed():
                await client.ainfo()
                await client.aclose()

            asyncio.run(used_and_closed())
            assert connections.closed == 1
            client.info()
        assert connections.closed == 2

    def test_closed_loops_are_forgotten(self):
        """The connections of a closed event loop are dropped once another loop is used."""
        client = client_of(Service())
        for _ in range(3):
            asyncio.run(client.ainfo())
        assert len(client._senders) == 1

    async def test_cancel(self):
        """Cancelling the caller cancels the call."""
        cancelled = asyncio.Event()

        async def hang(request):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise

        client = RewardClient("http://a", transport=httpx.MockTransport(hang))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await client.ascore(TEXTS)
        assert cancelled.is_set()


async def test_asgi_transport():
    """A client may call an ASGI application in its own process."""

    async def app(scope, receive, send):
        body = (await receive())["body"]
        response = Service()(httpx.Request(scope["method"], f"http://a{scope['path']}", content=body))
        await send({"type": "http.response.start", "status": 200, "headers": response.headers.raw})
        await send({"type": "http.response.body", "body": response.content})

    client = RewardClient("http://a", transport=httpx.ASGITransport(app))
    assert (await client.ascore(TEXTS)).rewards["echo"].scores == [1.0, 2.0, 3.0]
    await client.aclose()

"""The client over `httpx.MockTransport`: chunks, limits, one revision for all chunks, retries."""

import asyncio
import pickle
import time

import httpx
import pytest

from remote_rewards import RewardClient
from remote_rewards.client import MAX_CONSISTENCY_ATTEMPTS
from shared.errors import BadRequest, InsecureTransport, InvalidUrl, RevisionChanged, RewardError, ServiceUnreachable
from shared.schemas import Limits
from tests.unit.remote_rewards.service_in_memory import TEXTS, Replicas, Service, client_of, echo

KEY = "secret-key-of-16-chars"


class TestConstructor:
    def test_no_url(self):
        """A client needs a URL."""
        with pytest.raises(InvalidUrl, match="at least one URL"):
            RewardClient([])

    def test_invalid_url(self):
        """URLs are validated."""
        with pytest.raises(InvalidUrl, match="'ftp://a' is not the URL of a reward service"):
            RewardClient(["http://a", "ftp://a"])

    def test_plaintext_key(self):
        """A key over plain HTTP to another machine must be allowed."""
        with pytest.raises(InsecureTransport, match="allow_http"):
            RewardClient("http://a", KEY)
        RewardClient("http://a")
        RewardClient("http://a", KEY, allow_http=True)

    def test_repr(self):
        """A client shows its URLs, and its key nowhere."""
        client = RewardClient(["https://a/", "https://b"], KEY)
        assert repr(client) == "RewardClient(https://a, https://b)"
        assert "secret" not in repr(client.__dict__)

    def test_pickle(self):
        """A copy has the same settings, and no observer."""
        client = RewardClient(["https://a/", "https://b"], KEY, timeout_s=7, on_retry=lambda event: None)
        copy = pickle.loads(pickle.dumps(client))
        assert (copy.urls, copy.timeout_s) == (["https://a", "https://b"], 7)


class TestChunks:
    def test_in_order(self):
        """A call over the service's limit is scored in chunks, in order."""
        service = Service()
        with client_of(service) as client:
            assert echo(client) == ([1.0, 2.0, 3.0], "1")
        assert sorted(service.counts) == [1, 2]

    def test_two_revisions(self):
        """A call whose chunks were scored by two revisions is scored again as a whole."""
        service = Service(revisions=["2"])
        with client_of(service) as client:
            assert echo(client) == ([1.0, 2.0, 3.0], "1")
        assert len(service.counts) >= 4

    def test_two_rewards(self):
        """A call whose chunks were scored by different rewards is scored again as a whole."""

        class Renamed(Service):
            def scores(self, rewards):
                return super().scores(rewards if len(self.counts) > 1 else {"before": rewards["echo"]})

        service = Renamed()
        with client_of(service) as client:
            assert list(client.score(TEXTS).rewards) == ["echo"]
        assert len(service.counts) == 4

    def test_always_two_revisions(self, monkeypatch):
        """A call whose chunks never agree is given up after a few attempts."""
        service = Service(revisions=map(str, range(99)))
        monkeypatch.setattr("remote_rewards.retry.REVISION_TIMEOUT_S", 0.0)
        with client_of(service) as client, pytest.raises(RevisionChanged, match="several revisions of echo"):
            client.score(TEXTS)
        assert 2 * MAX_CONSISTENCY_ATTEMPTS - 1 <= len(service.counts) <= 2 * MAX_CONSISTENCY_ATTEMPTS

    def test_pinned_revision_counts(self, monkeypatch):
        """The revision pinned by the caller is never replaced by another one that the chunks share."""
        service = Service(revisions=["1", "2"] + ["2"] * 99)
        monkeypatch.setattr("remote_rewards.retry.REVISION_TIMEOUT_S", 0.0)
        with client_of(service) as client, pytest.raises(RevisionChanged, match="'echo' changed"):
            client.score(TEXTS, revisions={"echo": "1"})

    def test_replicas_of_two_revisions(self):
        """A call is scored whole by one of two replicas with different revisions."""
        replicas = Replicas({"a": Service(), "b": Service(revisions=["2"] * 999)})
        with client_of(replicas, ["http://a", "http://b"]) as client:
            results = [echo(client, ["a"] * 7) for _ in range(5)]
        assert {len(scores) for scores, _ in results} == {7}
        assert {revision for _, revision in results} <= {"1", "2"}


class TestLimits:
    @pytest.mark.parametrize("order", [1, -1])
    def test_replicas_differ(self, order):
        """A client learns the lower limits of another replica, and keeps to them."""
        replicas = Replicas({"a": Service(max_request_texts=2), "b": Service(max_request_texts=64)})
        with client_of(replicas, ["http://a", "http://b"][::order]) as client:
            for _ in range(4):
                assert echo(client, TEXTS * 3)[0] == [1.0, 2.0, 3.0] * 3
        counts = [count for service in replicas.services.values() for count in service.counts[-2:]]
        assert max(counts) <= 2

    @pytest.mark.parametrize("texts", [["a" * 30_000, "b", "c", "d"], ["a" * 30_000]])
    def test_single_too_large(self, texts):
        """A completion that is too large by itself raises an error, and leaves later calls as large."""
        service = Service(max_request_texts=8)
        with client_of(service) as client:
            with pytest.raises(BadRequest):
                client.score(texts)
            client.score(["a"] * 8)
        assert service.counts[-1] == 8

    async def test_concurrent_calls(self):
        """The limits that one call learned stay, although a call that started before it ends after it."""
        replicas = Replicas({"a": Service(max_request_texts=64)})
        service, release = replicas.services["a"], asyncio.Event()

        async def network(request):
            if b"slow" in request.content:
                await release.wait()
            return service(request)

        client = RewardClient("http://a", transport=httpx.MockTransport(network))
        await client.ainfo()
        service.max_request_texts = 2
        slow = asyncio.create_task(client.ascore(["slow"]))
        await client.ascore(["a"] * 8)
        release.set()
        await slow
        service.counts.clear()
        await client.ascore(["a"] * 8)
        assert service.counts == [2] * 4
        await client.aclose()

    def test_halved(self):
        """Halved limits are half of what was sent, and at least one."""
        limits = Limits(max_request_texts=1024, max_body_bytes=1001, max_queue_texts=9)
        assert limits.halved(max_texts=9) == Limits(max_request_texts=4, max_body_bytes=500, max_queue_texts=9)
        least = Limits(max_request_texts=1, max_body_bytes=1, max_queue_texts=9)
        assert least.halved(max_texts=1) == least

    def test_min(self):
        """The minimum of two limits is no larger than either."""
        one = Limits(max_request_texts=8, max_body_bytes=100, max_queue_texts=9)
        other = Limits(max_request_texts=2, max_body_bytes=900, max_queue_texts=9)
        lower = Limits(max_request_texts=2, max_body_bytes=100, max_queue_texts=9)
        assert one.min(other) == other.min(one) == lower


class Down(Service):
    """A service that cannot be reached until a time has passed since the first request."""

    def __init__(self, down_s):
        super().__init__()
        self.down_s, self.first_s = down_s, None

    def __call__(self, request):
        self.first_s = self.first_s or time.monotonic()
        if time.monotonic() < self.first_s + self.down_s:
            raise httpx.ConnectError("refused") from ConnectionRefusedError()
        return super().__call__(request)


class TestRetries:
    def test_observed(self, caplog):
        """Each retry is passed to the observer, counted and logged; while a call waits, the client says why."""
        events = []
        with client_of(Down(0.3), on_retry=lambda event: events.append((event, client.last_retry))) as client:
            assert echo(client)[0] == [1.0, 2.0, 3.0]
            assert (client.retries, client.last_retry) == (len(events), None)
        assert all(event is last_retry for event, last_retry in events)
        assert str(events[0][0].error) == "connection refused at http://a"
        assert caplog.messages[0].startswith("retry 1 in ")
        assert caplog.messages[0].endswith(" s: connection refused at http://a; 300 s left")

    def test_final_error(self):
        """The error of an unreachable service says what to do."""
        with client_of(Down(9), timeout_s=0.2) as client, pytest.raises(ServiceUnreachable) as error:
            client.score(TEXTS)
        message = str(error.value)
        assert message.startswith("gave up after ")
        assert message.endswith(
            " within 0.2 s; last error: connection refused at http://a; start it with `reward-service serve`, or check "
            "the URL"
        )

    async def test_info_counts(self):
        """The request for the limits is within the deadline of the call."""

        async def slow_info(request):
            if request.method == "POST":
                raise httpx.ConnectError("refused")
            await asyncio.sleep(0.2)
            return Service()(request)

        client, started_s = (
            RewardClient("http://a", transport=httpx.MockTransport(slow_info), timeout_s=0.3),
            time.monotonic(),
        )
        with pytest.raises(RewardError):
            await client.ascore(TEXTS)
        assert time.monotonic() - started_s < 0.45

    def test_timeout_of_info(self):
        """`info` may have a timeout of its own."""
        with client_of(Down(9), timeout_s=60) as client, pytest.raises(RewardError, match=r"within 0.3 s"):
            client.info(timeout_s=0.3)


class TestConcurrencyLimit:
    @pytest.fixture(autouse=True)
    def limit(self, monkeypatch):
        """Limit the calls in flight to one."""
        monkeypatch.setattr("remote_rewards.concurrency_limit.MAX_CONCURRENCY", 1)

    async def test_advertised_timeout(self):
        """A call that waited for the limiter advertises the time left when it is sent."""
        advertised_ms = []

        async def slow(request):
            if request.method == "POST":
                advertised_ms.append(int(request.headers["X-Request-Timeout-Ms"]))
                await asyncio.sleep(0.1)
            return Service()(request)

        client = RewardClient("http://a", transport=httpx.MockTransport(slow), timeout_s=10)
        await client.ainfo()
        await asyncio.gather(*(client.ascore(["a"]) for _ in range(3)))
        first, second, third = advertised_ms
        assert 10_000 >= first >= second + 80 >= third + 160

    async def test_timeout(self):
        """A call that is not admitted in time raises an error, and the service is not ejected."""
        started, release = asyncio.Event(), asyncio.Event()

        async def slow(request):
            if request.method == "POST":
                started.set()
                await release.wait()
            return Service()(request)

        client = RewardClient("http://a", transport=httpx.MockTransport(slow))
        await client.ainfo()
        call = asyncio.create_task(client.ascore(["a"]))
        await started.wait()
        with pytest.raises(ServiceUnreachable, match="1 calls were in flight to http://a until the timeout"):
            await client.ainfo(timeout_s=0.05)
        release.set()
        assert (await call).rewards["echo"].scores == [1.0]

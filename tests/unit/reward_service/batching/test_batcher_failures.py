"""Failures of texts, of the model and of the worker."""

import asyncio
import math

import pytest

from reward_service.batching.cache import LogitsCache
from reward_service.errors import BackendFailed, BackendUnavailable, NotFinite
from tests.unit.reward_service.batching.gated import Breaking, Gated, batching, busy


@pytest.mark.parametrize("poisoned", range(64))
async def test_poison_text(poisoned):
    """A text that makes the model fail has no effect on the others of its batch."""
    texts = [[666] if i == poisoned else [i] for i in range(64)]
    async with batching(Gated()) as batcher:
        ticket = await batcher.submit(texts)
    assert isinstance(ticket.outcomes[poisoned], BackendFailed)
    assert [o for i, o in enumerate(ticket.outcomes) if i != poisoned] == [
        [float(i)] for i in range(64) if i != poisoned
    ]


@pytest.mark.parametrize("value", [math.nan, math.inf])
async def test_non_finite_logits(value):
    """Logits that are not finite are an error, and are not cached."""

    class NonFinite(Gated):
        def forward(self, batch):
            return [[value, 1.0] for _ in super().forward(batch)]

    backend = NonFinite()
    async with batching(backend, LogitsCache(10)) as batcher:
        tickets = [await batcher.submit([[1]]) for _ in range(2)]
    outcomes = [ticket.outcomes[0] for ticket in tickets]
    assert all(isinstance(outcome, NotFinite) for outcome in outcomes)
    assert {str(outcome) for outcome in outcomes} == {f"the model returned {[value, 1.0]}"}
    assert len(backend.batches) == 2


async def test_wrong_number_of_rows():
    """A backend that returns too few rows is an error for every text."""

    class Short(Gated):
        def forward(self, batch):
            return super().forward(batch)[:-1]

    async with batching(Short()) as batcher:
        ticket = await batcher.submit([[1], [2]])
    assert all(isinstance(outcome, BackendFailed) for outcome in ticket.outcomes)


async def test_worker_failure():
    """A worker that fails finishes its jobs with an error and is restarted."""

    class Broken(LogitsCache):
        def put(self, tokens, logits):
            if tokens == (1,):
                raise ValueError("a bug")

    async with batching(Gated(), Broken(1)) as batcher:
        with pytest.raises(BackendFailed, match="worker failed"):
            await batcher.submit([[1]])
        assert (await batcher.submit([[2]])).outcomes == [[2.0]]
        assert batcher.healthy


async def test_worker_failure_on_stop(monkeypatch):
    """A worker that fails while it is stopped is not restarted."""
    async with batching(Gated()) as batcher:
        worker = batcher._worker
        monkeypatch.setattr(batcher, "_is_urgent", lambda: 1 / 0)
        batcher._arrived.set()
        while not worker.done():  # noqa: ASYNC110 - stop before the done callback
            await asyncio.sleep(0)
        await batcher.stop()
        await asyncio.sleep(0)
        assert batcher._worker is None


async def test_worker_survives_cancel():
    """The worker goes on after a batch whose only caller was cancelled."""
    backend = Gated(open_=False)
    async with batching(backend) as batcher:
        worker = batcher._worker
        call = asyncio.create_task(batcher.submit([[1]]))
        await backend.entered()
        call.cancel()
        await asyncio.wait([call])
        backend.gate.set()
        async with asyncio.timeout(10):
            while batcher._batch_started_s is not None:  # noqa: ASYNC110 - no caller is left to await
                await asyncio.sleep(0)
        assert (await batcher.submit([[2]])).outcomes == [[2.0]]
        assert batcher._worker is worker


async def test_model_down(monkeypatch):
    """While the model is down, whole requests fail, queued ones too, and no text gets the blame."""
    monkeypatch.setattr("reward_service.batching.batcher.PROBE_INTERVAL_S", 0.01)
    backend = Breaking()
    async with batching(backend, budget_tokens=4) as batcher:
        await batcher.submit([[1]])
        backend.broken = True
        calls = [batcher.submit([[10 * call + index] for index in range(1, 9)]) for call in range(1, 4)]
        failed = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(error) for error in failed] == [BackendUnavailable] * 3
        assert [str(error).partition("; ")[0] for error in failed] == ["the model is down"] * 3
        reasons = [str(error).partition("; ")[2] for error in failed]
        assert reasons[0].startswith("the model failed on this text: RuntimeError: CUDA error"), "it was computed"
        assert reasons[1:] == ["ask another replica"] * 2, "they were queued"
        assert not batcher.healthy
        with pytest.raises(BackendUnavailable, match="another replica"):
            await batcher.submit([[2]])
        assert batcher.depth == 0


async def test_model_recovers(monkeypatch):
    """A model that is down is probed until it computes again."""
    monkeypatch.setattr("reward_service.batching.batcher.PROBE_INTERVAL_S", 0.001)
    backend = Breaking()
    async with batching(backend) as batcher:
        await batcher.submit([[1]])
        backend.broken = True
        with pytest.raises(BackendUnavailable):
            await batcher.submit([[2]])
        tried = len(backend.batches)
        async with asyncio.timeout(10):
            while len(backend.batches) < tried + 3:
                assert not batcher.healthy
                await asyncio.sleep(0.001)
        backend.broken = False
        async with asyncio.timeout(10):
            while not batcher.healthy:  # noqa: ASYNC110 - health has no event
                await asyncio.sleep(0.001)
        assert (await batcher.submit([[2]])).outcomes == [[2.0]]


async def test_probe_input(monkeypatch):
    """The probe is the shortest text of the last batch that was computed."""
    monkeypatch.setattr("reward_service.batching.batcher.PROBE_INTERVAL_S", 0.001)
    async with batching(backend := Breaking()) as batcher:
        await batcher.submit([[1] * 50, [2]])
        backend.broken = True
        with pytest.raises(BackendUnavailable):
            await batcher.submit([[3]])
        assert backend.batches[:3] == [[1, 2], [3], [2]]


async def test_stalled_is_unhealthy():
    """A batcher whose batch exceeds its timeout is unhealthy until the batch ends."""
    async with busy(batch_timeout_s=0.0) as (batcher, backend, first):
        assert not batcher.healthy
        backend.gate.set()
        await first
        assert batcher.healthy


async def test_observer_failure():
    """An observer that raises does not stop the worker."""

    def observe(event):
        raise ValueError("broken observer")

    async with batching(Gated(), observe=observe) as batcher:
        tickets = [await batcher.submit([[number]]) for number in (1, 2)]
    assert [ticket.outcomes for ticket in tickets] == [[[1.0]], [[2.0]]]

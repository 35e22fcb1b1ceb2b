"""Coroutines are run together or on the loop of a thread, and none is left behind."""

import asyncio
import contextlib

import pytest

from shared.aio import EventLoopThread, gather_or_cancel
from shared.errors import RewardError


async def fail():
    raise KeyError


class TestGatherOrCancel:
    async def test_order(self):
        """Results are returned in the order of the coroutines."""
        assert await gather_or_cancel(asyncio.sleep(delay_s, delay_s) for delay_s in (0.002, 0.001)) == [0.002, 0.001]

    async def test_others_have_ended(self):
        """The other tasks have ended when the first error is raised."""
        ended = []

        async def never():
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                ended.append(True)

        with pytest.raises(KeyError):
            await gather_or_cancel([never(), fail()])
        assert ended == [True]

    async def test_uncancellable(self, monkeypatch):
        """A task that ignores its cancellation does not hold up the error."""
        monkeypatch.setattr("shared.aio.CANCEL_GRACE_S", 0.05)
        over = asyncio.Event()

        async def ignore_cancellation():
            while not over.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await over.wait()

        with pytest.raises(KeyError):
            await gather_or_cancel([ignore_cancellation(), fail()])
        over.set()


class TestEventLoopThread:
    def test_stopped(self):
        """A stopped loop has run its cleanup and accepts no more work."""
        thread, done = EventLoopThread(), []

        async def cleanup():
            done.append("cleanup")

        thread.stop(cleanup())
        with pytest.raises(RewardError, match="was closed"):
            thread.run(cleanup())
        assert done == ["cleanup"]

"""Let calls go to a replica by turns, as many at a time as it takes: a crowd is slower than a line."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakKeyDictionary, WeakValueDictionary

from remote_rewards.aimd_limit import Allowance
from shared.errors import Overloaded, ServiceUnreachable


class NoTurn(ServiceUnreachable):
    """A call's time was over before its turn came to be sent: that is no fault of the service."""


class Line:
    """The calls to one replica: those under way, and those that wait, the first of whom is next."""

    def __init__(self, url: str) -> None:
        self._url, self._under_way = url, 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @asynccontextmanager
    async def turn(self, allowance: Allowance, within_s: float) -> AsyncIterator[None]:
        """Wait for a turn, and note in the allowance what came of it. Raises `NoTurn` where none comes in time."""
        try:
            async with asyncio.timeout(within_s):
                await self._come(allowance)
        except TimeoutError:
            raise NoTurn(f"{self._url} had {self._under_way} calls under way all the time") from None
        sent_after = allowance.halvings
        try:
            yield
            allowance.answered()
        except Overloaded:
            allowance.refused(sent_after)
            raise
        finally:
            self._gone(allowance)

    async def _come(self, allowance: Allowance) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._call_up(allowance)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it came at the very moment
                self._gone(allowance)
            raise

    def _gone(self, allowance: Allowance) -> None:
        self._under_way -= 1
        self._call_up(allowance)

    def _call_up(self, allowance: Allowance) -> None:
        while self._waiting and self._under_way < int(allowance.calls):
            turn = self._waiting.popleft()
            if not turn.cancelled():
                turn.set_result(None)
                self._under_way += 1


class Lines:
    """A line for each event loop and replica, for as long as somebody stands in it."""

    def __init__(self) -> None:
        self._lines: WeakKeyDictionary[asyncio.AbstractEventLoop, WeakValueDictionary[str, Line]] = WeakKeyDictionary()

    def to(self, url: str) -> Line:
        """Give the running event loop's line to a replica."""
        lines = self._lines.setdefault(asyncio.get_running_loop(), WeakValueDictionary())
        return lines.setdefault(url, Line(url))

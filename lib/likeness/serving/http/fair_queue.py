"""A fair queue: of the clients that wait for a turn at some work, the one comes next that has had the least of it.

Start-time fair queuing (Goyal, Vin and Cheng 1996), with the time that work took as its cost.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from likeness.serving.query_encoder import OverloadedError

_EXPECTED_S = 0.02
"""What a turn counts until it is over."""
_MAX_REMEMBERED = 10_000


class FairQueue:
    """Turns at some work, of which a number may run at once. For one event loop."""

    def __init__(self, turns: int) -> None:
        self._free = turns
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        # virtual time: seconds of work of each client, none of which is behind the turn that was granted last
        self._used: dict[str, float] = {}
        self._now = 0.0
        self._running = Counter[str]()

    @asynccontextmanager
    async def turn(self, client: str, until: float) -> AsyncIterator[None]:
        """Waits for a turn of a client, and holds it.

        Raises:
            OverloadedError: it was not this client's turn by `until`, a time of the monotonic clock.
        """
        granted = asyncio.get_running_loop().create_future()
        self._used[client] = max(self._used.get(client, 0.0), self._now)
        self._waiting.setdefault(client, deque()).append(granted)
        self._grant()
        try:
            async with asyncio.timeout(until - time.monotonic()):
                await granted
        except BaseException as error:
            if granted.done() and not granted.cancelled():
                self._end(client, 0.0)
            granted.cancel()
            if isinstance(error, TimeoutError):
                raise OverloadedError("it was not your turn in time; ask less at once, or try again") from None
            raise
        start = time.monotonic()
        try:
            yield
        finally:
            self._end(client, time.monotonic() - start)

    def _grant(self) -> None:
        """Gives free turns to those who have had the least."""
        while self._free and self._waiting:
            client = min(self._waiting, key=lambda name: self._used[name])
            queue = self._waiting[client]
            granted = queue.popleft()
            if not queue:
                del self._waiting[client]
            if granted.done():  # given up
                continue
            granted.set_result(None)
            self._free -= 1
            self._running[client] += 1
            self._now = max(self._now, self._used[client])
            self._used[client] += _EXPECTED_S

    def _end(self, client: str, took: float) -> None:
        self._free += 1
        self._running[client] -= 1
        self._used[client] += took - _EXPECTED_S
        if len(self._used) > _MAX_REMEMBERED:
            self._forget()
        self._grant()

    def _forget(self) -> None:
        """Forgets clients that have had no more than any other that comes anew."""
        self._running = +self._running
        needed = {*self._waiting, *self._running}
        self._used = {name: used for name, used in self._used.items() if used > self._now or name in needed}

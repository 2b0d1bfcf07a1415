"""Query slots: a bounded number of queries runs, a bounded number waits, further ones are refused."""

import asyncio
from collections import deque

from infra.ops.embedded.servers.clickhouse.errors import EngineError, clickhouse_error


class Slots:
    """Slots of one class of queries, assigned in the order of arrival. A query may take several."""

    def __init__(self, name: str, number: int, queue: int) -> None:
        self._name = name
        self._free = self._number = number
        self._queue = queue
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def acquire(self, slots: int) -> None:
        """Wait for slots. EngineError with code 202 where too many queries wait already."""
        if not self._waiting and self._free >= slots:
            self._free -= slots
            return
        if len(self._waiting) >= self._queue:
            raise self._full()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((slots, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # the slots were assigned at the same moment
                self.release(slots)
            else:
                self._waiting = deque(item for item in self._waiting if item[1] is not turn)
                self._admit()
            raise

    def release(self, slots: int) -> None:
        """Release slots."""
        self._free += slots
        self._admit()

    def _admit(self) -> None:
        while self._waiting and (self._waiting[0][1].done() or self._free >= self._waiting[0][0]):
            slots, turn = self._waiting.popleft()
            if not turn.done():
                self._free -= slots
                turn.set_result(None)

    def _full(self) -> EngineError:
        text = f"Too many simultaneous queries of {self._name}: {self._number} run, {self._queue} wait. Try again later."
        return clickhouse_error(202, text, "TOO_MANY_SIMULTANEOUS_QUERIES")

"""Writes the consent ledger's view without a consent worker."""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial

import redis

from streams.consent.ledger.store import LedgerSlice, RedisStateStore, States, state_key

PARTITIONS = 4


def partition_of(subject: bytes) -> int:
    """Return a partition by the second character of a node."""
    return int(subject[1:2], 16) % PARTITIONS


def gate_view(url: str, states: States | None = None) -> RedisStateStore:
    """Return the consent worker's store. `states`: content of its topic, in every partition."""

    def changed(_partition: int, _since: int) -> Iterator[LedgerSlice]:
        yield LedgerSlice({}, states or {})

    return RedisStateStore(partial(redis.Redis.from_url, url), changed, 3_600)


def open_views(url: str, partitions: Iterable[int] = range(PARTITIONS)) -> RedisStateStore:
    """Mark the views of these partitions as complete, as a consent worker does with an empty topic."""
    view = gate_view(url)
    for partition in partitions:
        view.open(partition)
    return view


def remember(view: RedisStateStore, node: str, group: str, times: Mapping[str, int], regulation: str = "opt-in") -> None:
    """Write a committed state of a node."""
    view.write(partition_of(node.encode()), {state_key(regulation, group, node): times}, 1)

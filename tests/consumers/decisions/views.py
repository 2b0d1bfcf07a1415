"""The consent gate's view of its ledger, where no consent worker runs."""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial

import redis

from streams.consent.ledger.store import LedgerSlice, RedisStateStore, States, state_key

PARTITIONS = 4


def partition_of(subject: bytes) -> int:
    """By the second character of a node."""
    return int(subject[1:2], 16) % PARTITIONS


def gate_view(url: str, states: States | None = None) -> RedisStateStore:
    """As the consent worker has it; `states`: what its topic holds, in every partition."""

    def changed(_partition: int, _since: int) -> Iterator[LedgerSlice]:
        yield LedgerSlice({}, states or {})

    return RedisStateStore(partial(redis.Redis.from_url, url), changed, 3_600)


def open_views(url: str, partitions: Iterable[int] = range(PARTITIONS)) -> RedisStateStore:
    """Mark the views of these partitions as whole, as a consent worker does that finds nothing on its topic."""
    view = gate_view(url)
    for partition in partitions:
        view.open(partition)
    return view


def remember(view: RedisStateStore, node: str, group: str, times: Mapping[str, int], regulation: str = "opt-in") -> None:
    """Write what the gate has committed of a node."""
    view.write(partition_of(node.encode()), {state_key(regulation, group, node): times}, 1)

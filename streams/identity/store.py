"""What identity remembers: one slot per linked node, and for a day which record an event id belongs to.

Written by idempotent, monotone operations only: a slot and a claim are written once and never replaced, and being logged is
never taken back. A replayed batch changes nothing.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import redis

from infra.errors import ConfigError, Retryable
from streams.identity.rules import USER, Link, Slot

CLAIM_S = 86_400
"""How long a duplicate is recognised, seconds."""
TAGS = 64
"""Redis Cluster hash tags: as many groups of keys that can be read by one MGET each."""
CHUNK = 5_000
"""Keys of one MGET: Redis answers nobody else meanwhile."""
LONGEST_ID = 80

# One key only: a slot becomes logged if it is still the one that was logged.
CONFIRM = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2]) return 1 end
return 0
"""


# One key only: a slot from the log replaces an older one, and one that is not known to be in the log.
RESTORE = """
local found = redis.call('GET', KEYS[1])
if found == ARGV[1] then return 0 end
if found then
  local epoch = tonumber(string.match(found, '|(%d+)$'))
  if epoch > tonumber(ARGV[2]) or (epoch == tonumber(ARGV[2]) and string.sub(found, 1, 1) == 'D') then return 0 end
end
redis.call('SET', KEYS[1], ARGV[1])
return 1
"""


class GraphStore(Protocol):
    """Retryable while it is away, from every call."""

    def read(self, nodes: Sequence[str], events: Sequence[str]) -> tuple[list[Slot | None], list[str | None]]:
        """Slots of nodes, and places that hold events (see `event_key`), None where there is none."""
        ...

    def claim(self, claims: Sequence[tuple[str, str]]) -> list[str]:
        """For each (event, place), in order: the place that holds the event now."""
        ...

    def link(self, links: Sequence[Link]) -> list[bool]:
        """Write slots that are not there yet, not logged; for each, whether it was this call that wrote it."""
        ...

    def confirm(self, slots: Iterable[tuple[str, Slot]]) -> None:
        """Mark slots as logged, once the log has them for sure."""
        ...

    def children(self, nodes: Sequence[str]) -> list[set[str]]:
        """For each node, those whose slot may point at it: all that do, and some whose link was never won."""
        ...


def event_key(source: str, event_id: str) -> str:
    """The name of an event in claims: its id, within its source. Long ids are hashed, so that keys stay small."""
    name = f"{source}:{event_id}"
    return name if len(name) <= LONGEST_ID else hashlib.sha256(name.encode()).hexdigest()


class MemoryStore:
    """For tests and walks without Redis; claims never expire."""

    def __init__(self) -> None:
        self.slots: dict[str, Slot] = {}
        self.claims: dict[str, str] = {}
        self.below: dict[str, set[str]] = {}

    def read(self, nodes: Sequence[str], events: Sequence[str]) -> tuple[list[Slot | None], list[str | None]]:
        """See `GraphStore`."""
        return [self.slots.get(node) for node in nodes], [self.claims.get(event) for event in events]

    def claim(self, claims: Sequence[tuple[str, str]]) -> list[str]:
        """See `GraphStore`."""
        return [self.claims.setdefault(event, place) for event, place in claims]

    def link(self, links: Sequence[Link]) -> list[bool]:
        """See `GraphStore`."""
        won = []
        for link in links:
            self.below.setdefault(link.parent, set()).add(link.node)
            won.append(link.node not in self.slots)
            self.slots.setdefault(link.node, Slot(link.parent, logged=False))
        return won

    def confirm(self, slots: Iterable[tuple[str, Slot]]) -> None:
        """See `GraphStore`."""
        for node, slot in slots:
            if self.slots.get(node) == slot._replace(logged=False):
                self.slots[node] = slot._replace(logged=True)

    def children(self, nodes: Sequence[str]) -> list[set[str]]:
        """See `GraphStore`."""
        return [set(self.below.get(node, ())) for node in nodes]


class RedisStore:
    """The graph in Redis.

    `n:{tag}:<node>` = state (P pending, D in the log), parent, epoch; `c:{tag}:<node>` = set of nodes whose slot may point at
    it; `e:{tag}:<event>` = place.
    """

    def __init__(self, client: Any) -> None:
        self._redis = client
        self._confirm = client.register_script(CONFIRM)
        self._restore = client.register_script(RESTORE)
        self._checked = False

    def read(self, nodes: Sequence[str], events: Sequence[str]) -> tuple[list[Slot | None], list[str | None]]:
        """See `GraphStore`. ConfigError where this Redis may forget slots on its own."""
        keys = [_node_key(node) for node in nodes] + [_event_key(event) for event in events]
        found: list[bytes | None] = []
        try:
            if not self._checked:
                self._check()
            for start in range(0, len(keys), CHUNK):
                found += self._redis.mget(keys[start : start + CHUNK])
        except redis.RedisError as error:
            raise _away(error) from error
        slots, places = found[: len(nodes)], found[len(nodes) :]
        return [_slot(text) for text in slots], [None if place is None else place.decode() for place in places]

    def _check(self) -> None:
        policy = self._redis.info("memory").get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            raise ConfigError(
                f"Redis has maxmemory-policy {policy}: it would forget links of the identity graph in silence. Set "
                "`maxmemory-policy noeviction` there, or give the identity graph a Redis of its own (HEADWATER_REDIS)"
            )
        self._checked = True

    def claim(self, claims: Sequence[tuple[str, str]]) -> list[str]:
        """See `GraphStore`."""
        try:
            with self._redis.pipeline(transaction=False) as pipeline:
                for event, place in claims:
                    pipeline.set(_event_key(event), place, nx=True, ex=CLAIM_S)
                won = pipeline.execute()
            lost = [at for at, mine in enumerate(won) if not mine]
            held = self._redis.mget([_event_key(claims[at][0]) for at in lost]) if lost else []
        except redis.RedisError as error:
            raise _away(error) from error
        places = [place for _, place in claims]
        for at, holder in zip(lost, held, strict=True):
            # Expired between the two calls: a day old, so no duplicate that anybody promised to recognise.
            places[at] = places[at] if holder is None else holder.decode()
        return places

    def link(self, links: Sequence[Link]) -> list[bool]:
        """See `GraphStore`."""
        try:
            with self._redis.pipeline(transaction=False) as pipeline:
                for link in links:
                    # The child first: what ends in between leaves one too many there, and never one too few.
                    pipeline.sadd(_children_key(link.parent), link.node)
                    pipeline.set(_node_key(link.node), _text(Slot(link.parent, logged=False)), nx=True)
                return [bool(won) for won in pipeline.execute()[1::2]]
        except redis.RedisError as error:
            raise _away(error) from error

    def confirm(self, slots: Iterable[tuple[str, Slot]]) -> None:
        """See `GraphStore`."""
        try:
            with self._redis.pipeline(transaction=False) as pipeline:
                for node, slot in slots:
                    texts = [_text(slot._replace(logged=False)), _text(slot._replace(logged=True))]
                    self._confirm(keys=[_node_key(node)], args=texts, client=pipeline)
                pipeline.execute()
        except redis.RedisError as error:
            raise _away(error) from error

    def children(self, nodes: Sequence[str]) -> list[set[str]]:
        """See `GraphStore`."""
        try:
            with self._redis.pipeline(transaction=False) as pipeline:
                for node in nodes:
                    pipeline.smembers(_children_key(node))
                return [{child.decode() for child in found} for found in pipeline.execute()]
        except redis.RedisError as error:
            raise _away(error) from error

    def restore(self, slots: Sequence[tuple[str, Slot]]) -> int:
        """Write slots as the log has them where they are missing or older; how many were. Retryable."""
        try:
            with self._redis.pipeline(transaction=False) as pipeline:
                for node, slot in slots:
                    if node[0] != USER:
                        pipeline.sadd(_children_key(slot.parent), node)
                    text = _text(slot._replace(logged=True))
                    self._restore(keys=[_node_key(node)], args=[text, slot.epoch], client=pipeline)
                # A set says how many nodes were new to it: only what the scripts say counts.
                said = pipeline.execute()
        except redis.RedisError as error:
            raise _away(error) from error
        places, at = [], 0
        for node, _ in slots:
            at += 1 if node[0] == USER else 2
            places.append(at - 1)
        return sum(said[place] for place in places)

    def scan(self) -> Iterator[list[str]]:
        """The nodes of all slots, some at a time; one that is written meanwhile may be missing or there twice. Retryable."""
        nodes: list[str] = []
        try:
            for key in self._redis.scan_iter(match="n:*", count=1_000):
                nodes.append(key.decode().rpartition(":")[2])
                if len(nodes) == CHUNK:
                    yield nodes
                    nodes = []
        except redis.RedisError as error:
            raise _away(error) from error
        if nodes:
            yield nodes


def _away(error: redis.RedisError) -> Retryable:
    return Retryable(f"the identity graph's Redis: {type(error).__name__}")


def _node_key(node: str) -> str:
    return f"n:{{{int(node[1:3], 16) % TAGS:02x}}}:{node}"


def _children_key(node: str) -> str:
    return f"c:{{{int(node[1:3], 16) % TAGS:02x}}}:{node}"


def _event_key(event: str) -> str:
    return f"e:{{{sum(event[-4:].encode()) % TAGS:02x}}}:{event}"


def _text(slot: Slot) -> str:
    return f"{'D' if slot.logged else 'P'}|{slot.parent}|{slot.epoch}"


def _slot(text: bytes | None) -> Slot | None:
    if text is None:
        return None
    state, parent, epoch = text.decode("ascii").split("|")
    return Slot(parent, state == "D", int(epoch))

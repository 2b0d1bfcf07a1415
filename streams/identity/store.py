"""What identity remembers: one slot per linked node, and for a day which record an event id belongs to.

Written by single-key operations only, each of which is safe to do again: a slot is replaced only by who has seen what it
replaces, a claim never, and being logged is never taken back. A replayed batch changes nothing.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import redis
from redis.crc import key_slot
from redis.exceptions import RedisClusterException

from infra.errors import ConfigError, Retryable
from streams.identity.rules import USER, Pair, Slot, Write

CLAIM_S = 86_400
"""How long a duplicate is recognised, seconds."""
NOTE_S = 30 * 86_400
"""How long a split can be completed, seconds."""
TAGS = 64
"""Redis Cluster hash tags: as many groups of keys that can be read by one MGET each."""
_TAG = {f"{n:02x}": n % TAGS for n in range(256)}
_BRACED = [f"{{{tag:02x}}}" for tag in range(TAGS)]
CHUNK = 5_000
"""Keys of one MGET: Redis answers nobody else meanwhile."""
LONGEST_ID = 80
AWAY = (redis.RedisError, RedisClusterException)
"""What a Redis that is away, or a cluster that is not whole, raises; the second is no kind of the first."""

# A slot becomes logged if it is still the one that was logged.
CONFIRM = """
if redis.call('GET', KEYS[1]) == 'P' .. ARGV[1] then redis.call('SET', KEYS[1], 'D' .. ARGV[1]) return 1 end
return 0
"""

# A slot is replaced if it is still the one that was seen, whether it is known to be logged or not.
SWAP = """
local found = redis.call('GET', KEYS[1])
if found and string.sub(found, 2) == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2]) return 1 end
return 0
"""

# A holder takes one more only below its limit.
ADMIT = """
if redis.call('SISMEMBER', KEYS[1], ARGV[1]) == 1 then return 1 end
if redis.call('SCARD', KEYS[1]) >= tonumber(ARGV[2]) then return 0 end
redis.call('SADD', KEYS[1], ARGV[1])
return 1
"""

# A slot from the log replaces an older one, and one that is not known to be in the log.
RESTORE = """
local found = redis.call('GET', KEYS[1])
if found == ARGV[1] then return 0 end
if found then
  local epoch = tonumber(string.match(found, '^.|[^|]*|(%d+)'))
  if epoch > tonumber(ARGV[2]) or (epoch == tonumber(ARGV[2]) and string.sub(found, 1, 1) == 'D') then return 0 end
end
redis.call('SET', KEYS[1], ARGV[1])
return 1
"""

SCRIPTS = {name: hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest() for name, text in (
    ("confirm", CONFIRM), ("swap", SWAP), ("admit", ADMIT), ("restore", RESTORE),
)}  # fmt: skip


class Away(Retryable):
    """The graph cannot be reached."""


class GraphStore(Protocol):
    """Away while it cannot be reached, from every call."""

    def read(self, nodes: Sequence[str], events: Sequence[str]) -> tuple[list[Slot | None], list[str | None]]:
        """Slots of nodes, and places that hold events (see `event_key`), None where there is none."""
        ...

    def claim(self, claims: Sequence[tuple[str, str]]) -> list[str]:
        """For each (event, place), in order: the place that holds the event now."""
        ...

    def write(self, writes: Sequence[Write]) -> list[bool]:
        """Write slots, in order, where each is still what was held; for each, whether it was this call that wrote it."""
        ...

    def admit(self, pairs: Sequence[Pair]) -> list[bool]:
        """Whether each holder has room for its member, or holds it already; it holds it from then on."""
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
        self.held: dict[tuple[str, str], set[str]] = {}
        self.notes: dict[str, str] = {}

    def read(self, nodes: Sequence[str], events: Sequence[str]) -> tuple[list[Slot | None], list[str | None]]:
        """See `GraphStore`."""
        return [self.slots.get(node) for node in nodes], [self.claims.get(event) for event in events]

    def claim(self, claims: Sequence[tuple[str, str]]) -> list[str]:
        """See `GraphStore`."""
        return [self.claims.setdefault(event, place) for event, place in claims]

    def write(self, writes: Sequence[Write]) -> list[bool]:
        """See `GraphStore`."""
        won = []
        for write in writes:
            found = self.slots.get(write.node)
            mine = found is None if write.held is None else found is not None and _same(found, write.held)
            won.append(mine)
            if points(write.node, write.slot):
                self.below.setdefault(write.slot.parent, set()).add(write.node)
            if mine:
                self.slots[write.node] = write.slot
        return won

    def admit(self, pairs: Sequence[Pair]) -> list[bool]:
        """See `GraphStore`."""
        admitted = []
        for holder, member, (rule, most) in pairs:
            held = self.held.setdefault((holder, rule), set())
            admitted.append(member in held or len(held) < most)
            if admitted[-1]:
                held.add(member)
        return admitted

    def confirm(self, slots: Iterable[tuple[str, Slot]]) -> None:
        """See `GraphStore`."""
        for node, slot in slots:
            if self.slots.get(node) == slot._replace(logged=False):
                self.slots[node] = slot._replace(logged=True)

    def children(self, nodes: Sequence[str]) -> list[set[str]]:
        """See `GraphStore`."""
        return [set(self.below.get(node, ())) for node in nodes]

    def note(self, node: str, text: str) -> None:
        """Keep a text for a node, in place of an earlier one."""
        self.notes[node] = text

    def noted(self, node: str) -> str | None:
        """What is kept for it."""
        return self.notes.get(node)


class RedisStore:
    """The graph in Redis, or in a Redis Cluster.

    `n:{tag}:<node>` = state (P pending, D in the log), parent, epoch, and what the node is marked as; `c:{tag}:<node>` = set
    of nodes whose slot may point at it; `k:{tag}:<node>:<rule>` = set of what it holds under a limit; `s:{tag}:<node>` = what
    its split has to write; `e:{tag}:<event>` = place. Every shard is spoken to by a client of its own: what a batch needs of
    it is one round trip.
    """

    def __init__(self, connect: Callable[[], redis.Redis | redis.RedisCluster]) -> None:
        self._connect = connect
        self._client: redis.Redis | redis.RedisCluster | None = None
        self._shards: list[Any] = []
        """The client of each tag."""

    # -- shards

    def _open(self) -> None:
        """Find the shards. ConfigError where one may forget slots on its own."""
        client = self._client = self._connect()
        if isinstance(client, redis.RedisCluster):
            nodes = [client.nodes_manager.get_node_from_slot(key_slot(f"{{{tag:02x}}}".encode())) for tag in range(TAGS)]
            shards = [client.get_redis_connection(node) for node in nodes]
        else:
            shards = [client] * TAGS
        for shard in {id(shard): shard for shard in shards}.values():
            policy = shard.info("memory").get("maxmemory_policy", "noeviction")
            if policy != "noeviction":
                raise ConfigError(
                    f"Redis has maxmemory-policy {policy}: it would forget links of the identity graph in silence. Set "
                    "`maxmemory-policy noeviction` there, or give it a Redis of its own (HEADWATER_IDENTITY_REDIS)"
                )
            for text in (CONFIRM, SWAP, ADMIT, RESTORE):
                shard.script_load(text)
        self._shards = shards

    def _away(self, error: Exception) -> Away:
        """What an error means. The next call opens anew: shards may have moved, and a new Redis has no scripts."""
        self.close()
        return Away(f"the identity graph's Redis: {type(error).__name__}")

    def close(self) -> None:
        """Let go of the connections."""
        if self._client is not None:
            self._client.close()
        self._client, self._shards = None, []

    def _run(self, commands: Sequence[tuple[int, tuple[Any, ...]]]) -> list[Any]:
        """(tag, command) pairs, one round trip a shard; the answers in their order. Retryable."""
        try:
            if not self._shards:
                self._open()
            by_shard: dict[int, list[int]] = {}
            for at, (tag, _) in enumerate(commands):
                by_shard.setdefault(id(self._shards[tag]), []).append(at)
            answers: list[Any] = [None] * len(commands)
            for places in by_shard.values():
                with self._shards[commands[places[0]][0]].pipeline(transaction=False) as pipeline:
                    for at in places:
                        pipeline.execute_command(*commands[at][1])
                    for at, answer in zip(places, pipeline.execute(), strict=True):
                        answers[at] = answer
        except AWAY as error:
            raise self._away(error) from error
        return answers

    def _mget(self, keys: Sequence[tuple[int, str]]) -> list[bytes | None]:
        """Values of (tag, key) pairs, in few round trips. Retryable."""
        try:
            if not self._shards:
                self._open()
            if isinstance(self._client, redis.Redis):
                found: list[bytes | None] = []
                for start in range(0, len(keys), CHUNK):
                    found += self._shards[0].mget([key for _, key in keys[start : start + CHUNK]])
                return found
        except AWAY as error:
            raise self._away(error) from error
        by_tag: dict[int, list[int]] = {}
        for at, (tag, _) in enumerate(keys):
            by_tag.setdefault(tag, []).append(at)
        told = self._run([(tag, ("MGET", *(keys[at][1] for at in places))) for tag, places in by_tag.items()])
        values: list[bytes | None] = [None] * len(keys)
        for places, some in zip(by_tag.values(), told, strict=True):
            for at, value in zip(places, some, strict=True):
                values[at] = value
        return values

    # -- the graph

    def read(self, nodes: Sequence[str], events: Sequence[str]) -> tuple[list[Slot | None], list[str | None]]:
        """See `GraphStore`. ConfigError where this Redis may forget slots on its own."""
        keys = [(tag_of(node), _key("n", node)) for node in nodes]
        keys += [_event(event) for event in events]
        found = self._mget(keys)
        slots, places = found[: len(nodes)], found[len(nodes) :]
        return [_slot(text) for text in slots], [None if place is None else place.decode() for place in places]

    def claim(self, claims: Sequence[tuple[str, str]]) -> list[str]:
        """See `GraphStore`."""
        keys = [_event(event) for event, _ in claims]
        won = self._run(
            [(tag, ("SET", key, place, "NX", "EX", CLAIM_S)) for (tag, key), (_, place) in zip(keys, claims, strict=True)]
        )
        lost = [at for at, mine in enumerate(won) if not mine]
        held = self._mget([keys[at] for at in lost]) if lost else []
        places = [place for _, place in claims]
        for at, holder in zip(lost, held, strict=True):
            # Expired between the two calls: a day old, so no duplicate that anybody promised to recognise.
            places[at] = places[at] if holder is None else holder.decode()
        return places

    def write(self, writes: Sequence[Write]) -> list[bool]:
        """See `GraphStore`."""
        commands: list[tuple[int, tuple[Any, ...]]] = []
        written: list[tuple[int, tuple[Any, ...]]] = []
        # Children first: what ends in between leaves one too many there, and never one too few.
        for write in writes:
            if points(write.node, write.slot) and (write.held is None or write.held.parent != write.slot.parent):
                commands.append((tag_of(write.slot.parent), ("SADD", _key("c", write.slot.parent), write.node)))
        if commands:
            self._run(commands)
        for write in writes:
            tag, key, text = tag_of(write.node), _key("n", write.node), _text(write.slot)
            if write.held is None:
                written.append((tag, ("SET", key, text, "NX")))
            else:
                written.append((tag, ("EVALSHA", SCRIPTS["swap"], 1, key, _text(write.held)[1:], text)))
        return [bool(won) for won in self._run(written)]

    def admit(self, pairs: Sequence[Pair]) -> list[bool]:
        """See `GraphStore`. A member is remembered by a part of its name."""
        commands = [
            (tag_of(holder), ("EVALSHA", SCRIPTS["admit"], 1, f"{_key('k', holder)}:{rule}", member[1:13], most))
            for holder, member, (rule, most) in pairs
        ]
        return [bool(said) for said in self._run(commands)]

    def confirm(self, slots: Iterable[tuple[str, Slot]]) -> None:
        """See `GraphStore`."""
        self._run(
            [(tag_of(node), ("EVALSHA", SCRIPTS["confirm"], 1, _key("n", node), _text(slot)[1:])) for node, slot in slots]
        )

    def children(self, nodes: Sequence[str]) -> list[set[str]]:
        """See `GraphStore`."""
        found = self._run([(tag_of(node), ("SMEMBERS", _key("c", node))) for node in nodes])
        return [{child.decode() for child in some} for some in found]

    # -- notes

    def note(self, node: str, text: str) -> None:
        """Keep a text for a node for a month, in place of an earlier one. Retryable."""
        self._run([(tag_of(node), ("SET", _key("s", node), text, "EX", NOTE_S))])

    def noted(self, node: str) -> str | None:
        """What is kept for it. Retryable."""
        (text,) = self._mget([(tag_of(node), _key("s", node))])
        return None if text is None else text.decode()

    # -- the whole of it

    def restore(self, slots: Sequence[tuple[str, Slot]]) -> int:
        """Write slots as the log has them where they are missing or older; how many were. Retryable."""
        self._run([(tag_of(s.parent), ("SADD", _key("c", s.parent), node)) for node, s in slots if points(node, s)])
        commands = []
        for node, slot in slots:
            text = _text(slot._replace(logged=True))
            commands.append((tag_of(node), ("EVALSHA", SCRIPTS["restore"], 1, _key("n", node), text, slot.epoch)))
        return sum(self._run(commands))

    def scan(self) -> Iterator[list[str]]:
        """The nodes of all slots, some at a time; one that is written meanwhile may be missing or there twice. Retryable."""
        nodes: list[str] = []
        try:
            if not self._shards:
                self._open()
            for shard in {id(shard): shard for shard in self._shards}.values():
                for key in shard.scan_iter(match="n:*", count=1_000):
                    nodes.append(key.decode().rpartition(":")[2])
                    if len(nodes) == CHUNK:
                        yield nodes
                        nodes = []
        except AWAY as error:
            raise self._away(error) from error
        if nodes:
            yield nodes


def points(node: str, slot: Slot) -> bool:
    """Whether a slot is a pointer to a parent, not a label or a mark on a root."""
    return node[0] != USER and slot.parent != node


def tag_of(node: str) -> int:
    """The hash tag of a node's keys."""
    return _TAG[node[1:3]]


def _key(kind: str, node: str) -> str:
    return f"{kind}:{_BRACED[_TAG[node[1:3]]]}:{node}"


def _event(event: str) -> tuple[int, str]:
    tag = sum(event[-4:].encode()) % TAGS
    return tag, f"e:{_BRACED[tag]}:{event}"


def _same(one: Slot, other: Slot) -> bool:
    return one[0] == other[0] and one[2:] == other[2:]


def _text(slot: Slot) -> str:
    text = f"{'D' if slot.logged else 'P'}|{slot.parent}|{slot.epoch}"
    if not slot.state:
        return text
    return f"{text}|{slot.state}|{slot.since}" if slot.since else f"{text}|{slot.state}"


def _slot(text: bytes | None) -> Slot | None:
    if text is None:
        return None
    letter, parent, epoch, *marked = text.decode("ascii").split("|")
    state = marked[0] if marked else ""
    return Slot(parent, letter == "D", int(epoch), state, int(marked[1]) if len(marked) > 1 else 0)

"""The graph's store in Redis or in a Redis Cluster: its keys, and what is written to them."""

from binascii import crc32
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

import redis

from infra.errors import Retryable
from streams.identity.graph import scripts
from streams.identity.graph.limits import LIMITS, Pair
from streams.identity.graph.redis_shards import (
    BRACED_TAGS,
    CHUNK,
    SCRIPT_CHUNK,
    TAG_OF_PREFIX,
    TAGS,
    Command,
    RedisShards,
    tag_of,
)
from streams.identity.graph.store import ClaimHolders
from streams.identity.graph.union_find import Slot, Write, is_root
from streams.identity.refusals.refusals import NONE, Refusals, confirm_signalled, from_text, merge_refusals, to_text

DAY_S = 86_400
"""Seconds within which a duplicate is recognised at least; at most twice as long."""
NOTE_S = 30 * 86_400
"""Seconds within which a split can be completed."""
REFUSAL_S = 395 * DAY_S
"""Seconds that a node's refusals are kept after the last new one: as the consent policy's default `memory.max_age_days`."""
REVISIONS = 50
"""Attempts to merge refusals while other workers write the same nodes; then the batch is retried later."""
_KEYS = {two: f"n:{BRACED_TAGS[tag]}:" for two, tag in TAG_OF_PREFIX.items()}
"""Key prefix of slots, by the first two characters after a node's tier."""
_REFUSAL_KEYS = {two: f"f:{BRACED_TAGS[tag]}:" for two, tag in TAG_OF_PREFIX.items()}
"""Key prefix of refusals, likewise."""
FIRST_SLOT = 37
"""Bytes of a slot that was never rewritten: letter, 33 characters of the parent, epoch 0, separators."""


class RedisGraphStore:
    """The graph in Redis, or in a Redis Cluster.

    `n:{tag}:<node>` = slot: letter (P pending, D logged), parent, epoch, state; `c:{tag}:<node>` = set of nodes whose slot may
    point at it; `w:{tag}:<node>:<rule>` = sorted set of its recent members by day, under a limit; `s:{tag}:<node>` = journal of
    its split; `f:{tag}:<node>` = its refusals; `r:{tag}` = set of rewritten nodes that are not confirmed; `e:{tag}:<topic
    id>:<day>` = hash of event -> position. Each shard has its own client: what a batch needs from it takes one round trip.
    """

    def __init__(self, connect: Callable[[], redis.Redis | redis.RedisCluster]) -> None:
        self._shards = RedisShards(connect)

    def close(self) -> None:
        """Close the connections."""
        self._shards.close()

    # -- the graph

    def read(self, nodes: Sequence[str]) -> list[Slot | None]:
        """See `GraphStore`. ConfigError where this Redis may evict slots."""
        return list(
            map(_decode_slot, self._shards.mget([(TAG_OF_PREFIX[node[1:3]], _KEYS[node[1:3]] + node) for node in nodes]))
        )

    def claim(self, claims: Mapping[bytes, bytes], now: float, topic_id: str = "") -> ClaimHolders:
        """See `GraphStore`."""
        by_tag: list[list[bytes]] = [[] for _ in range(TAGS)]
        for event, place in claims.items():
            of_tag = by_tag[crc32(event) % TAGS]
            of_tag.append(event)
            of_tag.append(place)
        day = int(now // DAY_S)
        chunks, commands = list[list[bytes]](), list[Command]()
        for tag, of_tag in enumerate(by_tag):
            prefix = f"e:{BRACED_TAGS[tag]}:{topic_id}:"
            keys = [f"{prefix}{n}" for n in (day, day - 1, day + 1, day - 2)]
            for start in range(0, len(of_tag), 2 * SCRIPT_CHUNK):
                pairs = of_tag[start : start + 2 * SCRIPT_CHUNK]
                chunks.append(pairs)
                commands.append((tag, ("EVALSHA", scripts.DIGESTS[scripts.CLAIM], len(keys), *keys, *pairs)))
        answers = self._shards.send(commands)

        def claim_holders() -> dict[bytes, bytes]:
            holders: dict[bytes, bytes] = {}
            for pairs, lost in zip(chunks, answers(), strict=True):
                holders.update((pairs[2 * number - 2], place) for number, place in zip(lost[::2], lost[1::2], strict=True))
            return holders

        return claim_holders

    def write(self, writes: Sequence[Write]) -> list[bool]:
        """See `GraphStore`."""
        # Children first: a crash in between leaves a child too many, never one too few.
        self._adopt((node, slot) for node, expected, slot, *_ in writes if expected is None or expected.parent != slot.parent)
        expected = ["" if write.expected is None else _encode_slot(write.expected)[1:] for write in writes]
        texts = [_encode_slot(write.slot) for write in writes]
        written = self._shards.run_script(scripts.WRITE, "n", [write.node for write in writes], expected, texts)
        return [won == 1 for won in written]

    def _adopt(self, slots: Iterable[tuple[str, Slot]]) -> None:
        """Add each slot's node to the children of its parent. Retryable."""
        new = [(slot.parent, node) for node, slot in slots if not is_root(node, slot)]
        self._shards.run_script(scripts.ADOPT, "c", [parent for parent, _ in new], [node for _, node in new])

    def admit(self, pairs: Sequence[Pair], day: int) -> list[bool]:
        """See `GraphStore`. A member is stored by a part of its name."""
        names = [f"{holder}:{limit.rule}" for holder, _, limit in pairs]
        members = [member[1:13] for _, member, _ in pairs]
        most, days = [limit.most for *_, limit in pairs], [limit.days for *_, limit in pairs]
        answers = self._shards.run_script(scripts.ADMIT, "w", names, members, most, [day] * len(pairs), days)
        return [answer == 1 for answer in answers]

    def confirm(self, slots: Iterable[tuple[str, Slot]]) -> None:
        """See `GraphStore`."""
        pairs = list(slots)
        self._shards.run_script(
            scripts.CONFIRM, "n", [node for node, _ in pairs], [_encode_slot(slot)[1:] for _, slot in pairs]
        )

    def unlogged_rewrites(self) -> list[str]:
        """See `GraphStore`."""
        members = self._shards.run([(tag, ("SMEMBERS", f"r:{braced}")) for tag, braced in enumerate(BRACED_TAGS)])
        return sorted(node.decode() for shard_nodes in members for node in shard_nodes)

    def children(self, nodes: Sequence[str]) -> list[set[str]]:
        """See `GraphStore`."""
        members = self._shards.run([(tag_of(node), ("SMEMBERS", _key("c", node))) for node in nodes])
        return [{child.decode() for child in children} for children in members]

    # -- refusals

    def refusals(self, nodes: Sequence[str]) -> list[Refusals]:
        """See `GraphStore`."""
        return [from_text(text) if text else NONE for text in self._refusal_texts(nodes)]

    def add_refusals(self, refusals: Mapping[str, Refusals]) -> None:
        """See `GraphStore`."""
        self._revise(refusals, merge_refusals)

    def confirm_refusals(self, refusals: Mapping[str, Refusals]) -> None:
        """See `GraphStore`."""
        self._revise(refusals, confirm_signalled)

    def _refusal_texts(self, nodes: Sequence[str]) -> list[bytes | None]:
        # Texts, not hashes: one MGET reads all nodes of a batch, most of which have none.
        return self._shards.mget([(TAG_OF_PREFIX[node[1:3]], _REFUSAL_KEYS[node[1:3]] + node) for node in nodes])

    def _revise(self, refusals: Mapping[str, Refusals], revise: Callable[[Refusals, Refusals], Refusals]) -> None:
        """Replace what each node remembers by `revise(current, new)`. Retryable."""
        waiting = list(refusals)
        for _ in range(REVISIONS):
            if not waiting:
                return
            replaced: dict[str, tuple[bytes, str]] = {}
            for node, text in zip(waiting, self._refusal_texts(waiting), strict=True):
                current = from_text(text)
                revised = revise(current, refusals[node])
                if revised is not current:
                    replaced[node] = text or b"", to_text(revised)
            before, after = [text for text, _ in replaced.values()], [text for _, text in replaced.values()]
            answers = self._shards.run_script(scripts.REPLACE, "f", list(replaced), before, after, [REFUSAL_S] * len(replaced))
            waiting = [node for node, answer in zip(replaced, answers, strict=True) if not answer]
        raise Retryable("other workers change the refusals of the same nodes all the time")

    # -- notes

    def save_note(self, node: str, text: str) -> None:
        """Save a text for a node for a month, replacing an earlier one. Retryable."""
        self._shards.run([(tag_of(node), ("SET", _key("s", node), text, "EX", NOTE_S))])

    def load_note(self, node: str) -> str | None:
        """Return the text saved for a node, or None. Retryable."""
        (text,) = self._shards.mget([(tag_of(node), _key("s", node))])
        return None if text is None else text.decode()

    def forget(self, nodes: Sequence[str], holders: Sequence[str]) -> int:
        """See `GraphStore`."""
        commands = [(tag_of(node), ("DEL", *_sets(node))) for node in nodes]
        commands += [(tag_of(node), ("DEL", _key("f", node))) for node in nodes]
        commands += [
            (tag_of(entry.holder), (entry.removal, entry.key, *entry.members)) for entry in _memberships(nodes, holders)
        ]
        commands += [(tag_of(node), ("DEL", _key("s", node))) for node in self._nodes_with_notes(nodes, holders)]
        return sum(self._shards.run(commands))

    def count_memberships(self, nodes: Sequence[str], holders: Sequence[str]) -> int:
        """See `GraphStore`."""
        count: int = sum(self._shards.run([(tag_of(node), ("EXISTS", *_sets(node))) for node in nodes]))
        count += sum(self._shards.run([(tag_of(node), ("EXISTS", _key("f", node))) for node in nodes]))
        entries = _memberships(nodes, holders)
        commands = [(tag_of(entry.holder), (entry.lookup, entry.key, *entry.members)) for entry in entries]
        count += sum(answer not in (0, None) for answers in self._shards.run(commands) for answer in answers)
        return count + len(self._nodes_with_notes(nodes, holders))

    def _nodes_with_notes(self, nodes: Sequence[str], holders: Sequence[str]) -> list[str]:
        """Return nodes whose note belongs to `nodes` or names one of them."""
        candidates = sorted({*nodes, *holders})
        texts = self._shards.mget([(tag_of(node), _key("s", node)) for node in candidates])
        names = [named_node.encode() for named_node in nodes]
        return [
            node
            for node, text in zip(candidates, texts, strict=True)
            if text is not None and (node in nodes or any(name in text for name in names))
        ]

    # -- the whole of it

    def restore(self, slots: Sequence[tuple[str, Slot]]) -> int:
        """Write slots of the log where they are missing or older; return how many were written. Idempotent. Retryable."""
        newest: dict[str, Slot] = {}
        for node, slot in slots:
            if node not in newest or slot.epoch >= newest[node].epoch:
                newest[node] = slot
        nodes = list(newest)
        before = self.read(nodes)
        texts = [_encode_slot(slot._replace(logged=True)) for slot in newest.values()]
        answers = self._shards.run_script(scripts.RESTORE, "n", nodes, texts, [slot.epoch for slot in newest.values()])
        # Only for slots that were written: the log keeps older records for long, also of nodes erased since.
        self._adopt((node, newest[node]) for node, answer in zip(nodes, answers, strict=True) if answer)
        stale_links = [
            (current.parent, node)
            for node, current, answer in zip(nodes, before, answers, strict=True)
            if answer == 1 and current is not None and current.parent not in (node, newest[node].parent)
        ]
        self._shards.run([(tag_of(parent), ("SREM", _key("c", parent), node)) for parent, node in stale_links])
        return answers.count(1)

    def expire(self, slots: Sequence[tuple[str, Slot | None]]) -> list[bool]:
        """Delete slots that still have these values, or, for None, that were never rewritten; return whether each is gone.
        Retryable."""
        nodes = [node for node, _ in slots]
        slots_before = [expected or current for (_, expected), current in zip(slots, self.read(nodes), strict=True)]
        above = [(node, slot) for node, slot in zip(nodes, slots_before, strict=True) if slot is not None]
        # Leave the parents' sets first: a worker that links them again re-adds them once the slot is gone.
        self._shards.run([(tag_of(slot.parent), ("SREM", _key("c", slot.parent), node)) for node, slot in above])
        texts = ["" if slot is None else _encode_slot(slot)[1:] for _, slot in slots]
        expired = [answer == 1 for answer in self._shards.run_script(scripts.EXPIRE, "n", nodes, texts)]
        still = {node for node, went in zip(nodes, expired, strict=True) if not went}
        self._adopt([pair for pair in above if pair[0] in still])
        return expired

    def reset_limits(self, nodes: Sequence[str]) -> None:
        """Delete the members counted for limits of nodes, and their notes. Retryable."""
        self._shards.run([(tag_of(node), ("DEL", *_sets(node)[1:], _key("s", node))) for node in nodes])

    def scan_nodes(self) -> Iterator[list[str]]:
        """Yield the nodes of all slots in chunks; slots written meanwhile may be missing or occur twice. Retryable."""
        nodes = (key.rpartition(":")[2] for key in self._shards.scan("n:*"))
        while chunk := list(islice(nodes, CHUNK)):
            yield chunk


def _key(kind: str, node: str) -> str:
    return f"{kind}:{BRACED_TAGS[TAG_OF_PREFIX[node[1:3]]]}:{node}"


def _sets(node: str) -> list[str]:
    """Return the keys of the sets that a node holds."""
    limits = [limit for (tier, _), tier_limits in LIMITS.items() if tier == node[0] for limit in tier_limits]
    return [_key("c", node), *(f"{_key('w', node)}:{limit.rule}" for limit in limits)]


class Membership(NamedTuple):
    """A set of a holder, and the members of it that stand for some nodes."""

    holder: str
    key: str
    members: Sequence[str]
    lookup: str
    """Redis command that looks members up in the set."""
    removal: str
    """Redis command that removes members from the set."""


def _memberships(nodes: Sequence[str], holders: Sequence[str]) -> Iterator[Membership]:
    """Yield the sets of the other holders that may hold these nodes."""
    parts = [node[1:13] for node in nodes]
    for holder in sorted(set(holders) - set(nodes)):
        children, *limited = _sets(holder)
        yield Membership(holder, children, nodes, "SMISMEMBER", "SREM")
        yield from (Membership(holder, key, parts, "ZMSCORE", "ZREM") for key in limited)


def _encode_slot(slot: Slot) -> str:
    text = f"{'D' if slot.logged else 'P'}|{slot.parent}|{slot.epoch}"
    if not slot.state:
        return text
    return f"{text}|{slot.state}|{slot.since}" if slot.since else f"{text}|{slot.state}"


def _decode_slot(text: bytes | None) -> Slot | None:
    if text is None:
        return None
    if len(text) == FIRST_SLOT and text.endswith(b"|0"):
        return Slot(text[2:-2].decode("ascii"), text.startswith(b"D"))
    letter, parent, epoch, *marked = text.decode("ascii").split("|")
    state = marked[0] if marked else ""
    return Slot(parent, letter == "D", int(epoch), state, int(marked[1]) if len(marked) > 1 else 0)

"""Components of which no id was seen for a long time: forgotten in the graph, in its log, and in the evidence.

A component goes as a whole, or the ids that are left would lose their root. One that somebody has intervened in stays: its
demoted, split or erased ids keep protecting whoever comes with them, and there are few.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from infra.errors import Retryable
from infra.kafka import producer
from infra.settings import Settings
from schemas.codec import decode
from schemas.registry import Registry
from streams.identity.evidence import LINKS
from streams.identity.log import LogIndex
from streams.identity.redis_store import CHUNK, RedisStore
from streams.identity.rules import Slot
from streams.identity.slots import MERGES, log_key
from streams.runtime.follow import read_topic

FLUSH_S = 30.0

Progress = Callable[[int], None]
"""Told how many more records are done."""


class Expired(NamedTuple):
    """What was forgotten, or would be."""

    slots: int
    links: int
    """Records of `identity.links`."""
    kept: int
    """Slots that were changed meanwhile, so that they stay."""


class Unseen:
    """The nodes of a log that are to be forgotten, worked out in its index."""

    def __init__(self, index: LogIndex) -> None:
        self._db = index.db
        for table in ("seen", "gone"):
            self._db.execute(f"CREATE TABLE {table} (node TEXT PRIMARY KEY) WITHOUT ROWID")

    def find(self, seen: Iterable[Sequence[str]], since_ms: int) -> None:
        """All whose whole component was neither seen nor linked since then."""
        say = self._db.execute
        for some in seen:
            say("BEGIN")
            self._db.executemany("INSERT OR IGNORE INTO seen VALUES (?)", ((node,) for node in some))
            say("COMMIT")
        # What a user points to is a label, not a parent. Then each is pointed further up, until all point to their roots.
        say("CREATE TABLE tops AS SELECT node, iif(node LIKE '0%', node, parent) AS top FROM slots")
        say("CREATE UNIQUE INDEX tops_by_node ON tops (node)")
        further = "UPDATE tops SET top = above.top FROM tops AS above WHERE above.node = tops.top AND above.top != tops.top"
        while say(further).rowcount:
            pass
        say(
            "CREATE TABLE kept AS SELECT DISTINCT top FROM tops JOIN slots USING (node) WHERE epoch > 0 OR state != '' "
            "OR evidence_ts >= ? OR node IN seen OR parent IN seen OR top IN seen",
            (since_ms,),
        )
        for column in ("node", "top"):  # a root that is no user has no slot, and goes too
            say(f"INSERT OR IGNORE INTO gone SELECT {column} FROM tops WHERE top NOT IN kept")  # noqa: S608 - ours

    def slots(self) -> Iterator[list[tuple[str, Slot]]]:
        """Theirs, some at a time."""
        rows = self._db.execute("SELECT node, parent FROM slots JOIN gone USING (node)")
        while some := rows.fetchmany(CHUNK):
            yield [(node, Slot(parent, logged=True)) for node, parent in some]

    def stay(self, nodes: Iterable[str]) -> None:
        """These do not go after all."""
        self._db.executemany("DELETE FROM gone WHERE node = ?", ((node,) for node in nodes))

    def has_all(self, nodes: Sequence[str]) -> bool:
        """Whether all of these are among them."""
        query = "SELECT 1 FROM gone WHERE node = ?"
        return all(self._db.execute(query, (node,)).fetchone() for node in nodes)


def expire(settings: Settings, store: RedisStore, unseen: Unseen, dry_run: bool, progress: Progress) -> Expired:
    """Forget them: first the slots, each if it is still what the log says, then the records. Cut short, it is completed by the
    next run: what has no record any more has no slot. Retryable."""
    pen = _Pen(settings)
    slots = links = kept = 0
    for some in unseen.slots():
        done = [True] * len(some) if dry_run else store.expire(some)
        gone = [pair for pair, is_gone in zip(some, done, strict=True) if is_gone]
        unseen.stay(node for (node, _), is_gone in zip(some, done, strict=True) if not is_gone)
        if not dry_run:
            # A root that is no user has no slot of its own. The log last: what it has no more is not found again.
            store.forget(sorted({one for node, slot in gone for one in (node, slot.parent) if unseen.has_all([one])}), ())
            pen.strike_out(MERGES, [log_key(node, slot) for node, slot in gone])
        slots, kept = slots + len(gone), kept + len(some) - len(gone)
        progress(len(some))
    for found in _evidence(settings, unseen):
        if not dry_run:
            pen.strike_out(LINKS, found)
        links += len(found)
        progress(len(found))
    return Expired(slots, links, kept)


def _evidence(settings: Settings, unseen: Unseen) -> Iterator[list[bytes]]:
    """Keys of what `identity.links` says of them alone."""
    registry = Registry(settings.contracts)
    for records in read_topic(settings, LINKS):
        said = [(key, decode(registry, value)[1]["nodes"]) for key, value in records if key is not None and value is not None]
        yield [key for key, nodes in said if unseen.has_all(nodes)]


class _Pen:
    """Writes tombstones."""

    def __init__(self, settings: Settings) -> None:
        self._kafka = producer(settings)

    def strike_out(self, topic: str, keys: Iterable[bytes]) -> None:
        """Tombstones for these keys. Retryable."""
        failed = list[str]()
        for key in keys:
            self._kafka.produce(topic, None, key, on_delivery=lambda error, _: failed.append(error.name()) if error else None)
        if self._kafka.flush(FLUSH_S) or failed:
            raise Retryable(f"Kafka did not take what is forgotten: {', '.join(sorted(set(failed))) or 'no answer'}")

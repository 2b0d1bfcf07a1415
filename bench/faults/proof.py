"""The proof: each committed event has one row, by offset, by event id and by content, and nothing else has any.

Two truths are held against the rows: what a read-committed scan of Kafka delivers now, and what the producer committed.
Rows of topics that are gone were proven while the topic was there; a fingerprint shows that they are still the same.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import confluent_kafka as ck

from bench.faults.contents import SentEvents, digest
from bench.faults.world import TOPIC, FaultWorld
from infra.clients.kafka import reader
from schemas.codec import decode

SLICE = 20_000
SILENCE_S = 60.0
EVENTS = "headwater.events"
PLACES = "SELECT _topic_id, _partition, min(_offset), max(_offset) FROM headwater.events GROUP BY 1, 2 ORDER BY 1, 2"


@dataclass
class Proof:
    """Figures that must be 0 unless their name says otherwise, and examples of what is wrong."""

    events: int = 0
    """Events that were committed."""
    events_aborted: int = 0
    """Events that were aborted: none of them may have a row."""
    records: int = 0
    """Records that read-committed scans delivered."""
    rows: int = 0
    missing: int = 0
    """Records of a scan without a row at their offset."""
    duplicates: int = 0
    """Rows beyond the first at an offset."""
    unexpected: int = 0
    """Rows at offsets that a scan does not deliver."""
    different: int = 0
    """Rows with a column that differs from the record."""
    unlike_sent: int = 0
    """Records of a scan that are not what the producer committed, or not committed."""
    ids_missing: int = 0
    """Committed events whose id no row has."""
    ids_doubled: int = 0
    """Rows beyond the first with an event's id."""
    aborted_rows: int = 0
    """Rows of events that were aborted."""
    foreign_rows: int = 0
    """Rows with an id that no event has."""
    changed: int = 0
    """Partitions of deleted topics whose rows have changed since they were proven."""
    dead_letters: int = 0
    examples: list[str] = field(default_factory=list)

    WRONG = (
        "missing", "duplicates", "unexpected", "different", "unlike_sent", "ids_missing", "ids_doubled", "aborted_rows",
        "foreign_rows", "changed", "dead_letters",
    )  # fmt: skip

    @property
    def exact(self) -> bool:
        """Whether nothing is wrong."""
        return not any(getattr(self, name) for name in self.WRONG)

    def note(self, name: str, place: str) -> None:
        """Count one fault, and keep its place as an example while there is room."""
        setattr(self, name, getattr(self, name) + 1)
        if len(self.examples) < 12:
            self.examples.append(f"{name}: {place}")

    def figures(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "exact": self.exact}


class Prover:
    """Proves topic by topic, and in the end the whole table. `progress` is called with the number of records compared."""

    def __init__(self, world: FaultWorld, ledger: SentEvents, progress: Callable[[int], None] = lambda _: None) -> None:
        self._world, self._ledger, self._progress = world, ledger, progress
        self._proof = Proof()
        self._fingerprints: dict[tuple[str, int], tuple[Any, ...]] = {}
        contract = world.registry.latest(TOPIC)
        self._names = contract.names
        self._columns = ", ".join(_column(entry["name"], entry["type"]) for entry in contract.schema["fields"])

    def prove_topic(self) -> None:
        """Compare the present topic with its rows, and remember their fingerprint. Everything must be loaded."""
        topic_id = self._world.topic_id(TOPIC)
        for partition in range(self._world.settings.partitions):
            start = 0
            for records, end in self._scan(partition):
                self._compare(topic_id, partition, start, end, records)
                start = end
            tail = f"{_condition(topic_id, partition)} AND _offset >= {start}"
            for (offset,) in self._world.store.rows(f"SELECT _offset FROM {EVENTS} WHERE {tail}"):  # noqa: S608 - ours
                self._proof.note("unexpected", f"{TOPIC}:{partition}@{offset}")
            self._fingerprints[topic_id, partition] = self._fingerprint(topic_id, partition)

    def finish(self) -> Proof:
        """Prove the last topic and the table as a whole."""
        earlier = dict(self._fingerprints)
        self.prove_topic()
        proof = self._proof
        for (topic_id, partition), fingerprint in earlier.items():
            if self._fingerprint(topic_id, partition) != fingerprint:
                proof.note("changed", f"partition {partition} of topic id {topic_id}")
        self._compare_ids()
        proof.events, proof.events_aborted = self._ledger.committed, self._ledger.aborted
        proof.dead_letters = self._world.store.rows("SELECT count() FROM headwater.dead_letters")[0][0]
        return proof

    def _scan(self, partition: int) -> Iterator[tuple[dict[int, bytes], int]]:
        """Yield delivered records by offset in chunks, each with the offset up to which it is complete."""
        consumer = reader(
            self._world.settings, "headwater.bench-proof", enable_partition_eof="true", auto_offset_reset="earliest"
        )
        try:
            consumer.assign([ck.TopicPartition(TOPIC, partition, 0)])
            records: dict[int, bytes] = {}
            while True:
                messages = consumer.consume(SLICE, 0.2) or [consumer.poll(SILENCE_S)]
                for message in messages:
                    if message is None:
                        raise TimeoutError(f"Kafka stopped delivering {TOPIC}:{partition}")
                    error = message.error()
                    if error is not None and error.code() == ck.KafkaError._PARTITION_EOF:
                        yield records, message.offset()
                        return
                    if error is not None:
                        raise ck.KafkaException(error)
                    records[message.offset()] = message.value()
                    if len(records) >= SLICE:
                        yield records, message.offset() + 1
                        records = {}
        finally:
            consumer.close()

    def _compare(self, topic_id: str, partition: int, start: int, end: int, records: dict[int, bytes]) -> None:
        condition = f"{_condition(topic_id, partition)} AND _offset >= {start} AND _offset < {end}"
        query = f"SELECT _offset, {self._columns} FROM {EVENTS} WHERE {condition} ORDER BY _offset"  # noqa: S608 - ours
        rows = self._world.store.rows(query)
        proof, previous = self._proof, -1
        absent = set(records)
        for offset, *values in rows:
            place = f"{TOPIC}:{partition}@{offset}"
            if offset == previous:
                proof.note("duplicates", place)
            elif offset not in records:
                proof.note("unexpected", place)
            else:
                absent.discard(offset)
                self._compare_contents(records[offset], values, place)
            previous = offset
        for offset in sorted(absent):
            proof.note("missing", f"{TOPIC}:{partition}@{offset}")
        proof.records += len(records)
        self._progress(len(records))

    def _compare_contents(self, value: bytes, values: list[Any], place: str) -> None:
        record = decode(self._world.registry, value)[1]
        if values != [record[name] for name in self._names]:
            wrong = [name for name, stored in zip(self._names, values, strict=True) if stored != record[name]]
            self._proof.note("different", f"{place}: {', '.join(wrong)}")
        ledger = self._ledger
        number = ledger.number_of(record["event_id"])
        if number < 0 or ledger.states[number] != SentEvents.COMMITTED or ledger.digests[number] != digest(value):
            self._proof.note("unlike_sent", place)

    def _fingerprint(self, topic_id: str, partition: int) -> tuple[Any, ...]:
        query = (
            f"SELECT count(), groupBitXor(cityHash64(_offset, {self._columns})), sum(cityHash64(_offset, {self._columns})) "  # noqa: S608 - ours
            f"FROM {EVENTS} WHERE {_condition(topic_id, partition)}"
        )
        return self._world.store.rows(query)[0]

    def _compare_ids(self) -> None:
        """Compare event ids over the whole table: each committed event once, from whichever topic."""
        ledger, proof = self._ledger, self._proof
        counts = bytearray(len(ledger.states))
        for topic_id, partition, first, last in self._world.store.rows(PLACES):
            for start in range(first, last + 1, 10 * SLICE):
                between = f"_offset BETWEEN {start} AND {min(last, start + 10 * SLICE - 1)}"
                query = f"SELECT event_id FROM {EVENTS} WHERE {_condition(topic_id, partition)} AND {between}"  # noqa: S608 - ours
                for (identifier,) in self._world.store.rows(query):
                    proof.rows += 1
                    number = ledger.number_of(identifier)
                    if number < 0:
                        proof.note("foreign_rows", f"partition {partition} of topic id {topic_id}")
                    else:
                        counts[number] = min(255, counts[number] + 1)
        for number, (state, count) in enumerate(zip(ledger.states, counts, strict=True)):
            if state == SentEvents.COMMITTED and count != 1:
                proof.note("ids_missing" if count == 0 else "ids_doubled", f"event {number}")
                if count > 2:
                    proof.ids_doubled += count - 2
            elif state != SentEvents.COMMITTED and count:
                proof.note("aborted_rows", f"event {number}")


def _condition(topic_id: str, partition: int) -> str:
    return f"_topic_id = '{topic_id}' AND _partition = {partition}"


def _column(name: str, kind: Any) -> str:
    """SQL of a column as the decoded record has it, with times in milliseconds."""
    if isinstance(kind, dict) and kind.get("logicalType") == "timestamp-millis":
        return f"toUnixTimestamp64Milli(`{name}`)"
    return f"`{name}`"

"""The bandit's stage: joins events to decisions, counts each decision once, and publishes snapshots.

It has two inputs in one group. `events.resolved` is joined without state: events that answer a decision go to
`bandit.outcomes`, keyed by the decision. That topic is the second input, so that all outcomes of a decision meet on one
partition, also when profiles were merged in between; there they are counted once, from that partition's state.
"""

from collections.abc import Iterable
from uuid import UUID

from infra.errors import Retryable
from infra.telemetry.logs import get_logger
from infra.telemetry.metrics import Metrics
from schemas.codec import HEADER_BYTES, HeadReader, Record, Undecodable, UnknownContract, decode, encode, schema_id
from schemas.fast.flag_reader import FlagReader
from schemas.registry import Registry
from streams.bandit.catalogue import Catalogue
from streams.bandit.counting import Changes, CountedOutcome, Counting
from streams.bandit.join import JoinResult, join
from streams.bandit.snapshots.publisher import Publisher
from streams.bandit.statistics import HOUR_MS, CellKey, StatsRecord
from streams.runtime.privacy.request_consumer import ACKS, REQUESTS, ack_record
from streams.runtime.stage import BY_KEY, Batch, CountCell, DeadRecord, Outcome, Output

RESOLVED, OUTCOMES = "events.resolved", "bandit.outcomes"
EXPERIMENTS, STATS, UNITS, SNAPSHOTS = "bandit.experiments", "bandit.stats", "bandit.units", "bandit.snapshots"

FORGOTTEN = "nothing to do: decisions and sums are kept, and no ids of persons"
HORIZON_KEY = b"horizon"
IMPORT = JoinResult("imported")
SLACK_MS = 86_400_000
"""Milliseconds for which a decision is remembered after its window, for late events."""
PUBLISHER_PARTITION = 0
"""The worker that holds it publishes: the group assigns it to one worker, whose transactions are fenced."""

KeyValues = Iterable[tuple[bytes | None, bytes | None]]


class BanditStage:
    """See the module. Learning needs Kafka only; the publisher writes snapshots to Redis for decisions."""

    name = "bandit"
    inputs: tuple[str, ...] = (RESOLVED, OUTCOMES, REQUESTS)
    broadcast: tuple[str, ...] = (EXPERIMENTS, STATS, SNAPSHOTS)
    restore: tuple[str, ...] = (STATS, UNITS)

    def __init__(self, registry: Registry, token_key: bytes, publisher: Publisher, metrics: Metrics) -> None:
        self._registry = registry
        self._token_key = token_key
        self._publisher = publisher
        self._metrics = metrics
        self._catalogue = Catalogue(registry)
        self._head = HeadReader(registry, "event_ts")
        self._imports: dict[bytes, FlagReader] = {}
        """By header."""
        self._countings: dict[int, Counting] = {}

    def _is_imported(self, value: bytes) -> bool:
        header = value[:HEADER_BYTES]
        imports = self._imports.get(header)
        if imports is None:
            imports = self._imports[header] = FlagReader(self._registry.by_id(schema_id(value)), "imported")
        return imports.read(value)

    # -- batches

    def handle(self, batch: Batch, now: float) -> Outcome:
        """Join, count or answer one batch. Retryable for an unknown contract, before anything is counted.

        The records' own times decide, so that a replay gives the same result; only answers to privacy requests use `now`.
        """
        if batch.topic == REQUESTS:
            return self._answer_requests(batch, now)
        counting = self._counting(batch.partition)
        return self._join(batch) if batch.topic == RESOLVED else self._count(batch, counting)

    def _join(self, batch: Batch) -> Outcome:
        outcome = Outcome()
        outcomes = outcome.out.setdefault(OUTCOMES, [])
        contract = self._registry.latest(OUTCOMES)
        for at, value in enumerate(batch.values):
            event = self._read_head(outcome, at, value)
            if event is None:
                continue
            outcome.passed += 1
            if event["heartbeat"]:
                continue
            verdict, record = IMPORT if self._is_imported(value or b"") else join(self._token_key, self._catalogue, event)
            if record is not None:
                outcomes.append((record["decision_id"].encode(), encode(contract, record), BY_KEY))
            minute = event["collector_ts"] // 60_000 * 60_000
            outcome.counts[CountCell(minute, event["source"], event["event_name"], verdict)] += 1
        return outcome

    def _answer_requests(self, batch: Batch, now: float) -> Outcome:
        """Answer privacy requests: the stage stores no personal data, so there is nothing to delete."""
        outcome = Outcome()
        contract = self._registry.latest(ACKS)
        for at, value in enumerate(batch.values):
            try:
                schema, request = decode(self._registry, value or b"")
                if schema.topic != REQUESTS:
                    raise Undecodable(f"a record of {schema.topic}")
            except Undecodable as error:
                outcome.dead.append(DeadRecord(at, "UNDECODABLE", str(error)))
                continue
            except UnknownContract as error:
                raise Retryable(str(error)) from error
            record = ack_record(request["request_id"], "bandit", FORGOTTEN, now)
            outcome.out.setdefault(ACKS, []).append((record["request_id"].encode(), encode(contract, record), BY_KEY))
            outcome.passed += 1
        return outcome

    def _read_head(self, outcome: Outcome, at: int, value: bytes | None) -> Record | None:
        try:
            return self._head.read(value or b"")[1]
        except Undecodable as error:
            outcome.dead.append(DeadRecord(at, "UNDECODABLE", str(error)))
            return None
        except UnknownContract as error:
            raise Retryable(str(error)) from error

    def _count(self, batch: Batch, counting: Counting) -> Outcome:
        outcome = Outcome()
        # Decode all before counting any: the whole batch comes again if one record must wait for its contract.
        decoded = [self._decode_outcome(outcome, at, value) for at, value in enumerate(batch.values)]
        keep_ms = self._catalogue.longest_window_ms + SLACK_MS
        for counted in decoded:
            if counted is None:
                continue
            verdict = counting.count(counted, keep_ms)
            self._metrics.count("headwater_outcomes_total", experiment=counted.cell.experiment, verdict=verdict)
            if verdict in ("late", "overflow"):
                outcome.dropped[verdict] += 1
            else:
                outcome.passed += 1
        outcome.out = self._write_changes(counting, batch.offsets[-1])
        return outcome

    def _decode_outcome(self, outcome: Outcome, at: int, value: bytes | None) -> CountedOutcome | None:
        try:
            _, record = decode(self._registry, value or b"")
            decision = UUID(record["decision_id"]).bytes
        except UnknownContract as error:
            raise Retryable(str(error)) from error
        except Undecodable as error:
            outcome.dead.append(DeadRecord(at, "UNDECODABLE", str(error)))
            return None
        except ValueError:
            outcome.dead.append(DeadRecord(at, "DECISION_ID", "not a UUID"))
            return None
        hour = record["decided_ts"] // HOUR_MS * HOUR_MS
        cell = CellKey(record["experiment"], record["epoch"], hour, record["group"], record["arm"])
        return CountedOutcome(decision, cell, record["decided_ts"], record["kind"] == "reward", record["reward"])

    def _write_changes(self, counting: Counting, applied_offset: int) -> dict[str, list[Output]]:
        """Return the changed sums and units, on the partition from which they are restored."""
        changes, partition = counting.drain_changes(), counting.partition
        contract = self._registry.latest(STATS)
        records = counting.stats_records(changes.cells, applied_offset)
        stats: list[Output] = [(record.key, encode(contract, record.record()), partition) for record in records]
        return {STATS: stats, UNITS: self._write_units(changes, partition)}

    def _write_units(self, changes: Changes, partition: int) -> list[Output]:
        contract = self._registry.latest(UNITS)

        def unit(key: bytes, decision_id: str, hour: int, bits: int) -> Output:
            return key, encode(contract, {"decision_id": decision_id, "hour": hour, "seen": bits}), partition

        written: list[Output] = [(str(UUID(bytes=decision)).encode(), None, partition) for decision in changes.forgotten]
        for decision, (hour, bits) in changes.units.items():
            decision_id = str(UUID(bytes=decision))
            written.append(unit(decision_id.encode(), decision_id, hour, bits))
        if changes.horizon is not None:
            written.append(unit(HORIZON_KEY, "", changes.horizon, 0))
        return written

    # -- memory

    def _counting(self, partition: int) -> Counting:
        if partition == PUBLISHER_PARTITION:
            self._publisher.elected = True
        return self._countings.setdefault(partition, Counting(partition))

    def on_restore(self, topic: str, partition: int, records: KeyValues) -> None:
        """Restore what this partition had counted, oldest first."""
        counting = self._counting(partition)
        for key, value in records:
            if topic == STATS:
                if value is not None:
                    counting.restore_sums(StatsRecord.of(decode(self._registry, value)[1]))
            elif value is None:
                counting.restore_forgotten(UUID((key or b"").decode("ascii")).bytes)
            else:
                _, record = decode(self._registry, value)
                decision = UUID(record["decision_id"]).bytes if record["decision_id"] else b""
                counting.restore_unit(decision, record["hour"], record["seen"])

    def on_revoke(self, partition: int) -> None:
        """Forget the state of a revoked partition."""
        self._countings.pop(partition, None)
        if partition == PUBLISHER_PARTITION:
            self._publisher.elected = False

    def on_broadcast(self, topic: str, records: KeyValues) -> None:
        """Apply experiments, the statistics of all partitions, and published snapshots."""
        if topic == EXPERIMENTS:
            self._catalogue.apply(records)
            get_logger().info("experiments", known=len(self._catalogue))
            return
        for _, value in records:
            if value is not None and topic == STATS:
                self._publisher.add_stats(StatsRecord.of(decode(self._registry, value)[1]))
            elif value is not None:
                self._publisher.add_published(value)

    def on_tick(self, now: float) -> Outcome:
        """Write committed snapshots to Redis and return the records to publish. Retryable while Redis is away."""
        published = self._publisher.publish_due(self._catalogue, int(now * 1_000))
        return Outcome({SNAPSHOTS: published} if published else {})

"""Reads each layer once and compares it with the ledger."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from infra.clients.topic_ids import topic_ids
from infra.ops.simulator.ledger import ANONYMISED, POISON, RESOLVED, LedgerIndex
from infra.ops.simulator.reconcile import compare
from infra.ops.simulator.reconcile.compare import LayerDeadLetters, LayerVerdict, RefusalRow
from infra.ops.simulator.reconcile.layers import DeadLetterReader, EventReader, begins_at_zero, ranges, records, scan
from infra.ops.simulator.reconcile.tables import Tables
from infra.ops.simulator.reconcile.tally import Sighting, Tally
from infra.settings import Settings
from schemas.registry import Registry
from streams.consent.redaction.reference import random_id

ANONYMOUS_KEY = "consent/anonymous/v1"
COUNTED = ("consent", "identity")
DOOR = "door:"
# SQL for the Kafka key of a dead letter.
PLACE = "concat(if(source_topic = '', 'door', source_topic), ':', toString(source_partition), ':', toString(source_offset))"


class Survey:
    """One reconciliation. Every layer is read from its beginning, because counts are totals."""

    def __init__(self, settings: Settings, expected: LedgerIndex) -> None:
        self._settings = settings
        self._expected = expected
        self._since = expected.run.started
        self._registry = Registry(settings.contracts)
        self._events = EventReader(self._registry, expected.run.run)
        self._anonymous_key = settings.master.derive(ANONYMOUS_KEY)
        self._raw_id = topic_ids(settings, ["events.raw"]).get("events.raw", "")
        self._cells: Counter[str] = Counter()
        self._totals: Counter[str] = Counter()
        self._decided: Counter[str] = Counter()
        self._joined: Counter[str] = Counter()
        self._leaks: set[int] = set()
        self._shortfalls: set[int] = set()

    def rows(self) -> Iterator[LayerVerdict]:
        """Yield the results in the order of the stream."""
        expected = self._expected
        raw, copies = Tally(expected), Counter[str]()
        for sighting in self._sightings("events.raw"):
            self._count_raw(raw, copies, sighting)
        yield compare.raw_row(expected, raw)
        consented = Tally(expected, copies)
        for sighting in self._sightings("events.consented", "consent"):
            consented.add_consented(sighting)
        yield compare.consented_row(expected, raw, copies, self._collect_violations(consented))
        resolved = Tally(expected, copies)
        for sighting in self._sightings("events.resolved", "identity"):
            resolved.add_consented(sighting)
        yield compare.once_row("events.resolved", expected, copies, self._collect_violations(resolved))
        yield compare.profiles_row(resolved, "profiles in events.resolved")
        letters, keys = self._read_dead_letters()
        yield compare.dead_row("events.dead", expected, letters)
        yield from self._bandit_rows()
        yield self._counts_row()
        yield from self._warehouse_rows(copies, keys)

    def refusals(self) -> list[RefusalRow]:
        """Return refusals by channel, after `rows` was consumed."""
        return compare.refusal_rows(self._expected, self._leaks, self._shortfalls)

    def _collect_violations(self, tally: Tally) -> Tally:
        self._leaks |= tally.leaks
        self._shortfalls |= tally.shortfalls
        return tally

    def _count_raw(self, raw: Tally, copies: Counter[str], sighting: Sighting) -> None:
        if not sighting.event_id:
            # A poison record is recognised by the marker in its bytes alone.
            for kind, poisoned in sighting.marks:
                if kind == "dd" and self._expected.fate(poisoned) == POISON:
                    raw.count(poisoned)
            return
        raw.add_raw(sighting, (RESOLVED, ANONYMISED))
        n = self._expected.number(sighting.event_id)
        if n is not None and self._expected.fate(n) == ANONYMISED:
            # The consent stage derives a new id from each copy's position with a secret key, so that copies cannot be linked.
            copies[random_id(self._anonymous_key, self._raw_id, *sighting.place)] += 1

    def _sightings(self, topic: str, stage: str = "") -> Iterator[Sighting]:
        """Yield sightings since the start of the run; add all records, older ones too, to the totals."""
        for message in scan(self._settings, topic):
            sighting = self._events.read_sighting(message.value())
            if not sighting.heartbeat:
                self._totals[topic] += 1
                if stage:
                    self._cells[f"{stage} {sighting.state if stage == 'identity' else sighting.outcome}"] += 1
            if message.timestamp()[1] >= self._since:
                yield sighting._replace(place=(message.partition(), message.offset()))

    def _read_dead_letters(self) -> tuple[LayerDeadLetters, Counter[str]]:
        letters, keys = LayerDeadLetters(), Counter[str]()
        reader = DeadLetterReader(self._settings, self._registry, self._expected.run.run)
        for message in scan(self._settings, "events.dead"):
            stage, about, wrong = reader.identify(message.value())
            self._cells[f"{stage} dead"] += 1
            if message.timestamp()[1] < self._since:
                continue
            key = (message.key() or b"").decode(errors="replace")
            keys[key] += 1
            if keys[key] > 1 and key.startswith(DOOR):
                continue  # the collector wrote it again, because Kafka became unavailable before acknowledging it
            letters.copies.update(about)
            if wrong:
                letters.unexplained[wrong] += 1
        return letters, keys

    def _bandit_rows(self) -> Iterator[LayerVerdict]:
        expected, run_decisions = self._expected, self._expected.decisions
        decided: Counter[str] = Counter()
        tracked = set(expected.tracked)
        for _, record in records(self._settings, self._registry, "bandit.decisions", self._since):
            decided[record["decision_id"]] += record["decision_id"] in run_decisions
            if record["visitor"] and record["decision_id"] in expected.ungranted:
                tracked.add(record["decision_id"])
        self._decided = +decided
        row = compare.joined_row("bandit.decisions", run_decisions, self._decided)
        yield replace(row, forbidden=len(tracked), notes=row.notes + ("visitor without consent",) * bool(tracked))
        joined: Counter[str] = Counter()
        for _, record in records(self._settings, self._registry, "bandit.outcomes", self._since):
            if record["decision_id"] in run_decisions:
                joined[f"{record['kind']} {record['decision_id']}"] += 1
        required = {f"exposure {decision}" for decision in expected.exposures if run_decisions.get(decision)}
        required |= {f"reward {decision}" for decision in expected.rewards if run_decisions.get(decision)}
        self._joined = joined
        yield compare.joined_row("bandit.outcomes", required, joined)

    def _counts_row(self) -> LayerVerdict:
        counted: Counter[str] = Counter()
        for _, record in records(self._settings, self._registry, "stream.counts", 0):
            stage, outcome = record["stage"], record["outcome"].partition(":")[0]
            # Cells with dimensions count the same events again.
            if stage in COUNTED and not record["dimensions"]:
                counted[f"{stage} {outcome}"] += record["n"]
        if not begins_at_zero(self._settings, ("events.raw", "events.consented", "events.resolved", "stream.counts")):
            return LayerVerdict("stream.counts", 0, 0, notes=("not compared: retention has removed the beginning of a topic",))
        cells = Counter({cell: n for cell, n in self._cells.items() if cell.partition(" ")[0] in COUNTED})
        for stage, before, after in (
            ("consent", "events.raw", "events.consented"),
            ("identity", "events.consented", "events.resolved"),
        ):
            cells[f"{stage} dropped"] = self._totals[before] - self._totals[after] - cells[f"{stage} dead"]
        return compare.counts_row(cells, counted)

    def _warehouse_rows(self, copies: Counter[str], letters: Counter[str]) -> Iterator[LayerVerdict]:
        tables = Tables(self._settings)
        try:
            tally = Tally(self._expected, copies)
            topic_id = topic_ids(self._settings, ("events.resolved",)).get("events.resolved", "")
            loaded = ranges(self._settings, "events.resolved", self._since)
            for sighting in tables.events(self._expected.run.run, topic_id, loaded):
                tally.add_consented(sighting)
            yield compare.once_row("ClickHouse events", self._expected, copies, self._collect_violations(tally))
            yield compare.profiles_row(tally, "profiles in ClickHouse")
            row_counts = tables.keys("dead_letters", PLACE, "dead_ts", self._since)
            yield compare.mirrored_row("ClickHouse dead_letters", letters, row_counts)
            # The topics were checked above: the tables must have the same rows.
            for table, column, topic in (
                ("bandit_decisions", "decision_id", self._decided),
                ("bandit_outcomes", "concat(kind, ' ', decision_id)", self._joined),
            ):
                row_counts = tables.keys(table, column, "decided_ts", self._since)
                yield compare.joined_row(
                    f"ClickHouse {table}", topic, {key: n for key, n in row_counts.items() if key in topic}
                )
        finally:
            tables.close()

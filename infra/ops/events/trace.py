"""Follows one event through the layers: Kafka's topics in their order, and ClickHouse. A search begins where the last ended."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

import confluent_kafka as ck

from consumers.warehouse.loader.loop import GROUP as WAREHOUSE
from consumers.warehouse.schema import ddl
from consumers.warehouse.store import Store
from infra.clients.topic_ids import topic_ids
from infra.errors import Retryable
from infra.ops.events.search import EventCopy, RecordMatch, TopicSearch, TopicSearcher, match_event_ids
from infra.payload_keyring import KeyDestroyed, PayloadKeyring
from infra.settings import Settings
from schemas.codec import Record, Undecodable, decode
from schemas.registry import Registry
from streams.collector.fields.event_ids import readable_event_id
from streams.collector.masking.event_mask import event_id_pseudonym
from streams.consent.decision.decide import Action
from streams.consent.ledger.ledger_writes import minute
from streams.consent.redaction.reference import random_id
from streams.consent.stage import AUDIT, CONSENTED, RAW
from streams.identity.nodes import NodeKeys
from streams.runtime.dead_letters.dead_letter import RecordPosition, open_letter
from streams.runtime.dead_letters.scan import DEAD

RESOLVED = "events.resolved"
LAYERS = (RAW, CONSENTED, RESOLVED)
READERS: Mapping[str, str] = {RAW: "headwater.consent", CONSENTED: "headwater.identity", RESOLVED: WAREHOUSE}
"""Topic -> group of the room that reads it."""
ANONYMOUS_KEY = "consent/anonymous/v1"
MARGIN_MS = 60_000
"""By which clocks of machines may differ."""
SPOOL_MARGIN_MS = 3_600_000
"""Before the row's own record within which its first copies are looked for: a client sends again for so long."""
COLUMNS = (
    "event_id", "event_name", "source", "site", "collector_ts", "consent_outcome", "consent_reasons", "identity_state",
    "profile_id", "profile_now", "_topic_id", "_partition", "_offset", "_loaded_at",
)  # fmt: skip


class TraceRequest(NamedTuple):
    """What to look for, and how far."""

    event_id: str
    since: int
    """Milliseconds UTC."""
    to_end: bool
    """Whether every topic is read to its end, so that all copies are counted."""
    decrypt: bool
    """Whether dead letters are opened and searched for the id."""


@dataclass
class EventTrace:
    """Everything that is known of one event."""

    request: TraceRequest
    event_ids: tuple[str, ...]
    """The id as sent, and the pseudonym that replaces one which shows a person's address."""
    topics: dict[str, TopicSearch] = field(default_factory=dict)
    audit: TopicSearch | None = None
    """Audit records of its subject, and of events of its site and minute. None where nothing of it was on `events.raw`."""
    letters: TopicSearch | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    warehouse_error: str = ""
    """Why ClickHouse could not be asked."""
    waiting: dict[str, int | None] = field(default_factory=dict)
    """Topic -> records that its reader must still read to be past the event's last copy; None where it never committed."""

    def copies(self, topic: str) -> list[EventCopy]:
        """The event's records on a topic, oldest first."""
        return self.topics[topic].copies if topic in self.topics else []

    @property
    def record(self) -> Record | None:
        """The fullest record of the event; None where no event topic has it."""
        return next((copies[0].record for topic in LAYERS if (copies := self.copies(topic))), None)

    @property
    def is_known(self) -> bool:
        """Whether anything at all is there."""
        letters = self.letters.copies if self.letters else []
        return bool(self.record or self.rows or letters)


class EventTracer:
    """Looks one event up in every layer."""

    def __init__(self, settings: Settings, searcher: TopicSearcher, warehouse: Store) -> None:
        self._settings = settings
        self._searcher = searcher
        self._warehouse = warehouse
        self._registry = Registry(settings.contracts)

    def trace(self, request: TraceRequest) -> EventTrace:
        """Return what is known of the event. Retryable while Kafka does not answer; ClickHouse may be away."""
        key = NodeKeys.of(self._settings).first["user"]
        event_id = readable_event_id(request.event_id) or request.event_id
        trace = EventTrace(request, (event_id, event_id_pseudonym(event_id, key)))
        trace.rows = self._fetch_rows(trace, trace.event_ids)
        since = request.since
        if trace.rows:
            since = max(since, min(epoch_ms(row["collector_ts"]) for row in trace.rows) - SPOOL_MARGIN_MS)
        event_ids = trace.event_ids
        for topic in LAYERS:
            match = match_event_ids(self._registry, event_ids)
            search = trace.topics[topic] = self._searcher.search(topic, since, match, to_end=request.to_end)
            if not search.copies:
                continue
            since = search.copies[0].written_ms - MARGIN_MS
            # Asked before the next topic is searched: what the room had passed on by then is found there.
            trace.waiting[topic] = self._searcher.records_before(READERS[topic], search.copies[-1])
            if topic == RAW:
                event_ids = (*event_ids, *self._anonymous_ids(search.copies))
        if not trace.rows and not trace.warehouse_error:
            trace.rows = self._fetch_rows(trace, event_ids)
        if trace.copies(RAW):
            first = trace.copies(RAW)[0]
            match = _match_audit(self._registry, first.partition, first.record)
            trace.audit = self._searcher.search(AUDIT, first.written_ms - MARGIN_MS, match, to_end=True)
        trace.letters = self._search_letters(trace)
        return trace

    def _anonymous_ids(self, copies: Sequence[EventCopy]) -> tuple[str, ...]:
        """The ids that the event has behind the consent stage if it was anonymised."""
        key = self._settings.master.derive(ANONYMOUS_KEY)
        topic_id = topic_ids(self._settings, [RAW])[RAW]
        return tuple(random_id(key, topic_id, copy.partition, copy.offset) for copy in copies)

    def _fetch_rows(self, trace: EventTrace, event_ids: Sequence[str]) -> list[dict[str, Any]]:
        """The event's rows. Without an answer of ClickHouse none, and the trace says why."""
        names = ", ".join(f"`{name}`" for name in COLUMNS)
        query = (
            f"SELECT {names} FROM {ddl.quoted(self._warehouse.database)}.events_now "  # noqa: S608 - names of our own
            "WHERE collector_ts >= fromUnixTimestamp64Milli({since:Int64}) AND event_id IN {event_ids:Array(String)} "
            "ORDER BY _loaded_at LIMIT 100"
        )
        # An anonymised row's time is the beginning of its hour.
        parameters = {"since": trace.request.since - 3_600_000, "event_ids": list(event_ids)}
        try:
            rows = self._warehouse.rows(query, parameters)
        except Retryable as error:
            trace.warehouse_error = str(error)
            return []
        return [dict(zip(COLUMNS, row, strict=True)) for row in rows]

    def _search_letters(self, trace: EventTrace) -> TopicSearch:
        copies = [copy for topic in LAYERS for copy in trace.copies(topic)]
        keys = {RecordPosition(copy.topic, copy.partition, copy.offset).key for copy in copies}
        since = min((copy.written_ms for copy in copies), default=trace.request.since + MARGIN_MS) - MARGIN_MS
        match = _match_keys(self._registry, keys)
        if trace.request.decrypt:
            keyring = PayloadKeyring(self._settings.keyring_dir, self._settings.master)
            match = _match_payloads(self._registry, keys, keyring, trace.event_ids)
        elif not keys:
            # A letter names the position of its record and nothing of its content.
            return TopicSearch(DEAD, since, since, to_end=False)
        return self._searcher.search(DEAD, since, match, to_end=True)


def epoch_ms(moment: datetime) -> int:
    """Milliseconds UTC of a time from ClickHouse, which names no zone and is UTC."""
    return round(moment.replace(tzinfo=UTC).timestamp() * 1000)


def _match_audit(registry: Registry, chain: int, event: Record) -> RecordMatch:
    """Match what the audit says of the event's site and minute, and of its subjects' choices in that minute."""
    subjects, start = set(event["identifiers"]), minute(event["collector_ts"])

    def match(message: ck.Message) -> Record | None:
        if message.partition() != chain:
            return None
        record = decode(registry, message.value() or b"")[1]
        if record["minute"] != start:
            return None
        of_site = record["kind"] == "denied" and record["site"] == event["site"] and record["outcome"] in set(Action)
        of_subject = record["kind"] == "state" and record["subject"] in subjects
        return record if of_site or of_subject else None

    return match


def _match_keys(registry: Registry, keys: set[bytes]) -> RecordMatch:
    """Match dead letters about records at these positions."""
    return lambda message: decode(registry, message.value() or b"")[1] if message.key() in keys else None


def _match_payloads(registry: Registry, keys: set[bytes], keyring: PayloadKeyring, event_ids: Sequence[str]) -> RecordMatch:
    """Match dead letters at these positions, and those whose payload holds an id; the decrypted `value` is added to them."""
    needles = tuple(event_id.encode() for event_id in event_ids)

    def match(message: ck.Message) -> Record | None:
        record = decode(registry, message.value() or b"")[1]
        try:
            _, value = open_letter(record, keyring)
        except KeyDestroyed as error:
            if message.key() in keys:
                return record
            raise Undecodable(str(error)) from None
        if message.key() in keys or any(needle in value for needle in needles):
            return {**record, "value": value}
        return None

    return match


__all__ = ["DEAD", "LAYERS", "RESOLVED", "EventTrace", "EventTracer", "TraceRequest", "epoch_ms"]

"""Reads events of a batch from slices of their heads; a slice that was read before is not decoded again.

Only what is decoded is checked to be UTF-8; other texts of the head pass unchanged, as everything after the head does.
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import compress
from operator import itemgetter
from typing import Any, NamedTuple, TypeVar

import numpy as np

from infra.errors import Retryable
from schemas.codec import HEADER_BYTES, HeadReader, Record, Undecodable, UnknownContract, schema_id
from schemas.fast.flag_reader import FlagReader
from schemas.fast.flat_encoder import flat_encoder
from schemas.fast.head_columns import MIN_BATCH, HeadColumns
from schemas.fast.head_slicer import HeadSlicer
from schemas.fast.primitives import read_long
from schemas.registry import Registry
from streams.identity.graph.identifier_set import IdentifierSet
from streams.identity.graph.store import LONGEST_CLAIM, shorten_claim
from streams.runtime.stage import IMPORTED, Batch, CountCell, Outcome

CONSENTED, RESOLVED = "events.consented", "events.resolved"
ANALYTICS = 1
"""Bit of `consent_purposes` without which nothing is linked."""
MINUTE_MS = 60_000
DAY_MS = 86_400_000
COLUMN_BATCH = 1_000
"""Records whose heads are read together: about what fits in a processor's cache until each is handled."""
MAX_CACHED_TEXTS = 10_000
MAX_CACHED_SETS = 50_000
"""Of one of two generations; about 1 KB each."""
LAST_FIELD = "identifiers"

T = TypeVar("T")

is_node = re.compile(r"[0-3][0-9a-f]{32}").fullmatch
_plain = re.compile(rb"[\x02-\x7e](?:\x42[0-3][0-9a-f]{32})+\x00").fullmatch
"""Matches an Avro array of nodes in the usual encoding: one block (twice its count), 33-byte texts (twice 33), the end."""


class Consent(NamedTuple):
    """What an event's consent allows."""

    purposes: int
    anonymised: bool
    linkable: bool


@dataclass(frozen=True, slots=True, eq=False)
class EventOrigin:
    """Event name, source and whether it is a heartbeat. Compared by identity, so that counting by it is cheap."""

    event_name: str
    source: str
    heartbeat: bool
    imported: "EventOrigin | None"
    """The origin of imported events that are alike otherwise; None for such a one, whose events are counted apart."""
    claims: bytes
    """Prefix of the claim names: source and event name, because a purchase and its refund may carry one id."""

    def cell(self, minute: int, outcome: str) -> CountCell:
        """Return the cell that counts its events of a minute since 1970 with an outcome."""
        counted = outcome if self.imported else f"{IMPORTED}{outcome}"
        return CountCell(minute * MINUTE_MS, self.source, self.event_name, counted)


class IdentityEvent(NamedTuple):
    """The fields of one record that identity reads."""

    position: int
    value: bytes
    identifiers: IdentifierSet
    origin: EventOrigin
    purposes: int
    collector_ts: int
    """Milliseconds UTC."""
    event_id: bytes
    claim: bytes
    """Claim name; empty for events that cannot be deduplicated."""

    def cell(self, outcome: str) -> CountCell:
        """Return the cell that counts this event with an outcome."""
        return self.origin.cell(self.collector_ts // MINUTE_MS, outcome)


_as_event: Callable[[Any], IdentityEvent] = partial(tuple.__new__, IdentityEvent)

OnUndecodable = Callable[[int, Undecodable], None]
"""Called with the position of a record that cannot be decoded, and the error."""


class BatchReader:
    """Reads batches of records of any contract version."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._heads: dict[bytes, _HeadDecoder] = {}

    def read(self, outcome: Outcome, batch: Batch, now: float) -> list[IdentityEvent]:
        """Return the events of a batch; undecodable records are dead letters. Retryable while a contract is unknown."""
        events: list[IdentityEvent] = []

        def on_error(position: int, error: Undecodable) -> None:
            outcome.dead_letter(position, str(error), now)

        for start in range(0, len(batch), COLUMN_BATCH):
            values = batch.values[start : start + COLUMN_BATCH]
            heads = self._heads.get((values[0] or b"")[:HEADER_BYTES])
            odd: Iterable[int] = range(len(values))
            if heads is not None and len(values) >= MIN_BATCH:
                batch_events, odd = heads.read_columns(start, values, on_error)
                events += batch_events
            for position in odd:
                events += self._read_one(start + position, values[position], on_error)
            if odd:
                events.sort(key=itemgetter(0))
        return events

    def _read_one(self, position: int, value: bytes | None, on_error: OnUndecodable) -> list[IdentityEvent]:
        try:
            if value is None:
                raise Undecodable("a tombstone")
            return (self._heads.get(value[:HEADER_BYTES]) or self._open(value)).read_one(position, value, on_error)
        except Undecodable as error:
            on_error(position, error)
        except UnknownContract as error:
            raise Retryable(str(error)) from error
        return []

    def _open(self, value: bytes) -> "_HeadDecoder":
        heads = self._heads[value[:HEADER_BYTES]] = _HeadDecoder(self._registry, value)
        return heads


class _HeadDecoder:
    """Reads records of one contract, with caches of decoded slices."""

    def __init__(self, registry: Registry, value: bytes) -> None:
        contract = registry.by_id(schema_id(value))
        if contract.topic != CONSENTED:
            raise Undecodable(f"a record of {contract.topic}")
        resolved = registry.derived(contract.id, RESOLVED)
        self._field_indexes = [
            contract.names.index(name) for name in ("consent_purposes", "event_id", "heartbeat", "collector_ts", LAST_FIELD)
        ]
        self._imports = FlagReader(contract, "imported")
        self._slicer = HeadSlicer(contract, LAST_FIELD)
        self._columns = HeadColumns(contract, LAST_FIELD)
        self._reader = HeadReader(registry, LAST_FIELD)
        self._column_encoder = flat_encoder(resolved.columns(), resolved.header)
        self._consents: OrderedDict[bytes, Consent] = OrderedDict()
        self._origins: OrderedDict[bytes, EventOrigin] = OrderedDict()
        self._younger: dict[bytes, IdentifierSet] = {}
        self._older: dict[bytes, IdentifierSet] = {}
        self._nobody = IdentifierSet((), self._column_encoder)

    def read_columns(
        self, start: int, values: Sequence[bytes | None], on_error: OnUndecodable
    ) -> tuple[list[IdentityEvent], list[int]]:
        """Return the events of most records from position `start` on, and the indexes of those to read one by one."""
        heads = self._columns.read([value or b"" for value in values])
        purposes, event_id, heartbeat, clock, nodes = self._field_indexes
        columns = (
            heads.ends[purposes], heads.begins[event_id], heads.ends[event_id], heads.ends[heartbeat], heads.numbers[clock],
            heads.begins[nodes], heads.ends[nodes],
        )  # fmt: skip
        rows: Iterable[Any] = enumerate(zip(values, *(column.tolist() for column in columns), strict=True), start)
        odd = np.flatnonzero(~heads.sound).tolist()
        if odd:
            rows = compress(rows, heads.sound.tolist())
        return self._events(rows, self._imports.may_hold(filter(None, values)), on_error), odd

    def read_one(self, position: int, value: bytes, on_error: OnUndecodable) -> list[IdentityEvent]:
        """Return the event of one record, whatever its encoding. Raises Undecodable."""
        ends = self._slicer.ends(value)
        purposes, event_id, heartbeat, clock, nodes = self._field_indexes
        id_at = ends[event_id - 1]
        while value[id_at] > 127:  # a length of more than one byte
            id_at += 1
        clock_at = ends[clock - 1]
        row = (value, ends[purposes], id_at + 1, ends[event_id], ends[heartbeat], read_long(value, clock_at), ends[nodes - 1])
        return self._events([(position, (*row, ends[nodes]))], True, on_error)

    def _events(
        self, rows: Iterable[tuple[int, tuple[Any, ...]]], imports: bool, on_error: OnUndecodable
    ) -> list[IdentityEvent]:
        """Return the events of these rows; `imports`: whether any may be imported."""
        events: list[IdentityEvent] = []
        consents, origins, identifier_sets = self._consents.get, self._origins.get, self._younger.get
        for position, (value, purposes_end, id_at, id_end, origin_end, clock, nodes_at, nodes_end) in rows:
            try:
                encoded = value[:purposes_end]
                purposes, anonymised, linkable = consents(encoded) or self._decode_consent(encoded, value)
                encoded = value[id_end:origin_end]
                origin = origins(encoded) or self._decode_origin(encoded, value)
                if imports and origin.imported and self._imports.read(value):
                    origin = origin.imported
                event_id = value[id_at:id_end]
                if not event_id.isascii():
                    event_id = self._head(value)["event_id"].encode()
                if linkable and not origin.heartbeat:
                    encoded = value[nodes_at:nodes_end]
                    identifiers = identifier_sets(encoded) or self._cached_identifiers(encoded, value)
                else:
                    identifiers = self._nobody
            except Undecodable as error:
                on_error(position, error)
                continue
            # Heartbeats have fresh ids; ids of anonymised events identify nothing.
            claim = b"" if origin.heartbeat or anonymised else origin.claims + event_id
            if len(claim) > LONGEST_CLAIM:
                claim = shorten_claim(claim)
            events.append(_as_event((position, value, identifiers, origin, purposes, clock, event_id, claim)))
        return events

    def _head(self, value: bytes) -> Record:
        return self._reader.read(value)[1]

    def _decode_consent(self, encoded: bytes, value: bytes) -> Consent:
        head = self._head(value)
        purposes = head["consent_purposes"]
        consent = Consent(purposes, head["consent_outcome"] == "anonymise", bool(purposes & ANALYTICS))
        return _remember(self._consents, MAX_CACHED_TEXTS, encoded, consent)

    def _decode_origin(self, encoded: bytes, value: bytes) -> EventOrigin:
        head = self._head(value)
        source, event_name = head["source"], head["event_name"]
        claims = f"{source}:{event_name}\0".encode()
        imported = EventOrigin(event_name, source, head["heartbeat"], None, claims)
        origin = EventOrigin(event_name, source, head["heartbeat"], imported, claims)
        return _remember(self._origins, MAX_CACHED_TEXTS, encoded, origin)

    def _cached_identifiers(self, encoded: bytes, value: bytes) -> IdentifierSet:
        """Return a set that is not in the younger generation of the cache, and move it there."""
        identifiers = self._younger.get(encoded) or self._older.get(encoded) or self._decode_identifiers(encoded, value)
        if len(self._younger) >= MAX_CACHED_SETS:
            self._older, self._younger = self._younger, {}
        self._younger[encoded] = identifiers
        return identifiers

    def _decode_identifiers(self, encoded: bytes, value: bytes) -> IdentifierSet:
        if _plain(encoded) and encoded[0] == 2 * (len(encoded) // 34):
            text = encoded.decode("ascii")
            nodes = [text[at : at + 33] for at in range(2, len(text) - 1, 34)]
        else:
            nodes = self._head(value)[LAST_FIELD]
            if not all(map(is_node, nodes)):
                raise Undecodable("an identifier that is no identity node")
        return IdentifierSet(tuple(nodes), self._column_encoder) if nodes else self._nobody


def _remember(cache: OrderedDict[bytes, T], limit: int, encoded: bytes, value: T) -> T:
    if len(cache) >= limit:
        cache.popitem(last=False)
    cache[encoded] = value
    return value

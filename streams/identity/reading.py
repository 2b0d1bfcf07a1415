"""What identity reads of an event: slices of its head. A slice that was met before is not decoded again.

Only what is decoded is checked to be UTF-8; other texts of the head pass as they are, as everything after the head does.
"""

import re
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple, TypeVar

from infra.errors import Retryable
from schemas.codec import (
    HEADER_BYTES,
    HeadReader,
    HeadSlicer,
    Record,
    Undecodable,
    UnknownContract,
    flat_encoder,
    read_long,
    schema_id,
)
from schemas.registry import Registry
from streams.identity.combination import Combination
from streams.identity.store import event_key
from streams.runtime.stage import Batch, Cell, Outcome

CONSENTED, RESOLVED = "events.consented", "events.resolved"
ANALYTICS = 1
"""Bit of `consent_purposes` without which nothing is linked."""
MINUTE_MS = 60_000
KEPT_TEXTS = 10_000
KEPT_COMBINATIONS = 100_000
LAST_FIELD = "identifiers"

T = TypeVar("T")

is_node = re.compile(r"[0-3][0-9a-f]{32}").fullmatch
_plain = re.compile(rb"[\x02-\x7e](?:\x42[0-3][0-9a-f]{32})+\x00").fullmatch
"""An Avro array of nodes as every writer encodes it: one block (twice its count), texts of 33 bytes (twice that), the end."""


class Consent(NamedTuple):
    """What was consented to."""

    purposes: int
    anonymised: bool


class Where(NamedTuple):
    """Event name, source and whether it is a heartbeat."""

    event_name: str
    source: str
    heartbeat: bool
    coded: bytes
    """The source, encoded."""


class Event(NamedTuple):
    """One record of a batch, as far as identity reads it."""

    at: int
    value: bytes
    combination: Combination
    where: Where
    purposes: int
    collector_ts: int
    """Milliseconds UTC."""
    event_id: bytes
    claim: bytes
    """Name in claims; empty where duplicates cannot be told."""

    def cell(self, what: str) -> Cell:
        """Where it is counted."""
        return Cell(self.collector_ts // MINUTE_MS * MINUTE_MS, self.where.source, self.where.event_name, what)


_as_event: Callable[[Any], Event] = partial(tuple.__new__, Event)


class Reader:
    """Reads batches, whatever versions their records have."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._heads: dict[bytes, _Heads] = {}

    def read(self, outcome: Outcome, batch: Batch, now: float) -> list[Event]:
        """Its events; what is none goes to the dead tray. Retryable while a contract is unknown."""
        events = []
        for at, value in enumerate(batch.values):
            try:
                if value is None:
                    raise Undecodable("a tombstone")
                heads = self._heads.get(value[:HEADER_BYTES]) or self._open(value)
                events.append(heads.event(at, value))
            except Undecodable as error:
                outcome.bury(at, str(error), now)
            except UnknownContract as error:
                raise Retryable(str(error)) from error
        return events

    def _open(self, value: bytes) -> "_Heads":
        found = self._heads[value[:HEADER_BYTES]] = _Heads(self._registry, value)
        return found


class _Heads:
    """Records of one contract, and slices of them that were met before."""

    def __init__(self, registry: Registry, value: bytes) -> None:
        contract = registry.by_id(schema_id(value))
        if contract.topic != CONSENTED:
            raise Undecodable(f"a record of {contract.topic}")
        resolved = registry.derived(contract.id, RESOLVED)
        place = contract.names.index
        self._pick: Callable[[Any], tuple[int, ...]] = itemgetter(
            place("consent_purposes"), place("event_id") - 1, place("event_id"), place("heartbeat"), place("signals"),
            place(LAST_FIELD),
        )  # fmt: skip
        self._ends = HeadSlicer(contract, LAST_FIELD).ends
        self._reader = HeadReader(registry, LAST_FIELD)
        self._columns = flat_encoder(resolved.columns(), resolved.header)
        self._consents: OrderedDict[bytes, Consent] = OrderedDict()
        self._wheres: OrderedDict[bytes, Where] = OrderedDict()
        self._combinations: OrderedDict[bytes, Combination] = OrderedDict()
        self._nobody = Combination((), self._columns)

    def event(self, at: int, value: bytes) -> Event:
        """One of them. Undecodable."""
        purposes_end, id_at, name_at, clock_at, identifiers_at, end = self._pick(self._ends(value))
        said = value[:purposes_end]
        consent = self._consents.get(said) or self._consent(said, value)
        name = value[name_at:clock_at]
        where = self._wheres.get(name) or self._where(name, value)
        while value[id_at] > 127:  # its length takes more than a byte
            id_at += 1
        event_id = value[id_at + 1 : name_at]
        if not event_id.isascii():
            event_id = self._head(value)["event_id"].encode()
        if consent.purposes & ANALYTICS and not where.heartbeat:
            said = value[identifiers_at:end]
            combination = self._combinations.get(said) or self._combination(said, value)
        else:
            combination = self._nobody
        single = where.heartbeat or consent.anonymised  # their ids are new or nobody's
        claim = b"" if single else event_key(where.coded, event_id)
        clock = read_long(value, clock_at)
        return _as_event((at, value, combination, where, consent.purposes, clock, event_id, claim))

    def _head(self, value: bytes) -> Record:
        return self._reader.read(value)[1]

    def _consent(self, said: bytes, value: bytes) -> Consent:
        head = self._head(value)
        found = Consent(head["consent_purposes"], head["consent_outcome"] == "anonymise")
        return _keep(self._consents, KEPT_TEXTS, said, found)

    def _where(self, said: bytes, value: bytes) -> Where:
        head = self._head(value)
        source = head["source"]
        return _keep(self._wheres, KEPT_TEXTS, said, Where(head["event_name"], source, head["heartbeat"], source.encode()))

    def _combination(self, said: bytes, value: bytes) -> Combination:
        if _plain(said) and said[0] == 2 * (len(said) // 34):
            text = said.decode("ascii")
            nodes = [text[at : at + 33] for at in range(2, len(text) - 1, 34)]
        else:
            nodes = self._head(value)[LAST_FIELD]
            if not all(map(is_node, nodes)):
                raise Undecodable("an identifier that is no identity node")
        found = Combination(tuple(nodes), self._columns) if nodes else self._nobody
        return _keep(self._combinations, KEPT_COMBINATIONS, said, found)


def _keep(kept: OrderedDict[bytes, T], most: int, said: bytes, found: T) -> T:
    if len(kept) >= most:
        kept.popitem(last=False)
    kept[said] = found
    return found

"""Reads the first fields of an encoded event, without decoding the rest. Pure."""

import re
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from fastavro import parse_schema, schemaless_reader

from schemas.codec import Undecodable
from schemas.fast.head_columns import MIN_BATCH, HeadColumns
from schemas.fast.head_slicer import HeadSlicer
from schemas.fast.primitives import read_long
from schemas.registry import Contract

HEAD_BYTES = 256
"""Of an event, within which its collector time is expected. Longer heads are read one at a time."""
CLOCK = "collector_ts"
NODE_BYTES = 34
"""Of an identity node in an Avro array, its length byte included."""
PLAIN_IDENTIFIERS = re.compile(rb"[\x02-\x7e](?:\x42[0-3][0-9a-f]{32})+\x00").match
"""An Avro array of nodes as every writer encodes it: one block (twice its count), texts of 33 bytes (twice that), the end."""
ONE_IDENTIFIER = b"\x02\x42"
"""The first bytes of an Avro array of one text of 33 bytes."""

EventHead = tuple[int, int, int, int]
"""Offsets: where `event_name` begins, where `heartbeat` ends, where `region` begins; and the collector time, milliseconds UTC.

A plain tuple, because one is made for each event.
"""


class EventHeadReader:
    """Reads heads of one version of `events.raw`."""

    def __init__(self, contract: Contract) -> None:
        self._columns = HeadColumns(contract, CLOCK)
        self._clock_ends = HeadSlicer(contract, CLOCK).ends
        self._signals_ends = HeadSlicer(contract, "signals", "region").ends
        self._event_id, self._heartbeat, self._clock = map(contract.names.index, ("event_id", "heartbeat", CLOCK))
        self.read_names = _partial_reader(contract, ("event_name", "source", "site", "heartbeat"))
        """Decodes the bytes from `event_name` to `heartbeat`. Undecodable."""
        self.read_signals = _partial_reader(contract, ("region", "signals"))
        """Decodes the bytes from `region` to `signals`. Undecodable."""
        self._read_identifiers = _partial_reader(contract, ("identifiers",))

    def read_many(self, values: Sequence[bytes]) -> Sequence[EventHead | None]:
        """The heads of framed events; None for each that `read_one` must read."""
        if len(values) < MIN_BATCH:
            return [None] * len(values)
        # Only the beginnings are joined: whole events would evict from the processor's cache what is compared next.
        columns = self._columns.read([value[:HEAD_BYTES] for value in values])
        offsets = (columns.ends[self._event_id], columns.ends[self._heartbeat], columns.ends[self._clock])
        fields = (column.tolist() for column in (*offsets, columns.numbers[self._clock]))
        heads: list[EventHead | None] = list(zip(*fields, strict=True))
        for position in np.flatnonzero(~columns.sound):
            heads[position] = None
        return heads

    def read_one(self, value: bytes) -> EventHead:
        """The head of one framed event. Undecodable."""
        ends, clock = self._clock_ends(value), self._clock
        return ends[self._event_id], ends[self._heartbeat], ends[clock], read_long(value, ends[clock - 1])

    def signals_end(self, value: bytes, region_at: int) -> int:
        """The offset behind the signals. Undecodable."""
        return self._signals_ends(value, region_at)[-1]

    def identifiers(self, value: bytes, begin: int) -> list[bytes]:
        """The identity nodes of an event, whose array begins at this offset. Undecodable."""
        plain = PLAIN_IDENTIFIERS(value, begin)
        if plain is not None and value[begin] == 2 * ((plain.end() - begin) // NODE_BYTES):
            return [value[at : at + NODE_BYTES - 1] for at in range(begin + 2, plain.end() - 1, NODE_BYTES)]
        return [node.encode() for node in self._read_identifiers(value[begin:])["identifiers"]]


def _partial_reader(contract: Contract, names: tuple[str, ...]) -> Callable[[bytes], dict[str, Any]]:
    """A function that decodes these neighbouring fields alone."""
    fields = [item for item in contract.schema["fields"] if item["name"] in names]
    schema = parse_schema({**contract.schema, "name": f"{contract.schema['name']}Part{names[0]}", "fields": fields})

    def read(data: bytes) -> dict[str, Any]:
        try:
            record: Any = schemaless_reader(BytesIO(data), schema, None)
        except Exception as error:  # what fastavro raises for broken bytes depends on where they break
            raise Undecodable(f"broken datum: {type(error).__name__}") from None
        return dict(record)

    return read


__all__ = ["HEAD_BYTES", "ONE_IDENTIFIER", "EventHead", "EventHeadReader"]

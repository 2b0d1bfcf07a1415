"""Exports all that is held of a person as one JSON document, streamed."""

import json
from collections.abc import Callable, Iterator

from consumers.privacy.context import PersonTraces, PrivacyContext
from consumers.privacy.topics import LINKS, MERGES, REQUESTS, STATE
from consumers.warehouse import erasing as rows
from streams.identity.repair.erasing import Members

AUDIT = "consent_audit"
Write = Callable[[str], object]


def export(context: PrivacyContext, members: Members, until: int, traces: PersonTraces, write: Write) -> dict[str, int]:
    """Write the document; place -> number of items. After Retryable the document is incomplete."""
    person, counts = rows.ErasedPerson(*members, until=until), dict[str, int]()
    slots = zip(members.nodes, context.graph.read(members.nodes), strict=True)
    head = {
        "nodes": members.nodes, "profiles": members.profiles, "shared": members.shared, "until_ts": until,
        "slots": {node: slot._asdict() for node, slot in slots if slot is not None},
    }  # fmt: skip
    write(json.dumps(head)[:-1])
    for name, topic in (("merges", MERGES), ("links", LINKS), ("consent_states", STATE), ("requests", REQUESTS)):
        counts[topic] = _array(write, name, (json.dumps(record.record) for record in traces.records[topic]))
    write(', "tables": {')
    for n, table in enumerate([*rows.row_conditions(context.warehouse.database, person), AUDIT]):
        documents = (line.decode() for line in rows.export_rows(context.warehouse, table, person))
        counts[f"clickhouse.{table}"] = _array(write, table, documents, "" if n == 0 else ", ")
    write("}}\n")
    return counts


def _array(write: Write, name: str, items: Iterator[str], before: str = ", ") -> int:
    write(f"{before}{json.dumps(name)}: [")
    n = 0
    for n, item in enumerate(items, 1):
        write(("" if n == 1 else ", ") + item)
    write("]")
    return n


__all__ = ["export"]

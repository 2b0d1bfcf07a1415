"""The warehouse's part of an erasure: every row that is of a person, out of every table that names one.

First the places of the rows are taken down, without identifiers, then the rows go. So a replay of the loader takes them for
present and fills nothing in again, and whoever crashes in between finds what is left to do.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from consumers.warehouse.schema import ddl
from consumers.warehouse.schema.tables import TABLES
from consumers.warehouse.store import Store
from infra.errors import Retryable

PLAIN = re.compile(r"[0-9a-f]{32,33}")
"""What may stand in a statement as it is."""
IDENTIFIERS = "events.identifiers"
"""Place of ids beside another person's in her event: they are taken out, and the row stays hers."""
NAMES = tuple(table.name for table in TABLES.values())


class ErasedPerson(NamedTuple):
    """Whose rows."""

    nodes: Sequence[str]
    profiles: Sequence[str]
    """What her events can have been stamped with."""
    shared: Sequence[str]
    """Of those, nodes that several persons use: what was collected of them alone is not hers."""
    until: int
    """What was collected until then, milliseconds UTC. She may have come back since, as somebody new."""


def erased_person(record: Mapping[str, Any]) -> ErasedPerson:
    """Of a record of `privacy.erasures`."""
    return ErasedPerson(record["nodes"], record["profiles"], record["shared"], record["erased_ts"])


def conditions(database: str, person: ErasedPerson) -> dict[str, str]:
    """Table -> which of its rows are hers. Outcomes first: what tells whose they are goes later."""
    base, nodes = ddl.quoted(database), _among(person.nodes)
    until = f"fromUnixTimestamp64Milli(toInt64({int(person.until)}))"
    events = (
        f"((node IN {nodes} AND collector_ts <= {until}) OR (profile_id IN {_among(person.profiles)} AND "
        f"(node NOT IN {_among(person.shared)} OR {_any('identifiers', person.nodes)})))"
    )
    decisions = f"(visitor IN {nodes} AND decided_ts <= {until})"
    return {
        "bandit_outcomes": (
            f"(decision_id IN (SELECT decision_id FROM {base}.bandit_decisions WHERE {decisions}) OR event_id IN "  # noqa: S608
            f"(SELECT event_id FROM {base}.events WHERE decision_token != '' AND {events}))"
        ),
        "bandit_decisions": decisions,
        "consent_revocations": f"(subject IN {nodes} AND received_ts <= {until})",
        "privacy_requests": (
            f"((subject IN {nodes} OR {_any('nodes', person.nodes)} OR {_any('profiles', _hers(person))}) "
            f"AND requested_ts <= {until})"
        ),
        "identity_merges": f"(node IN {nodes} OR parent IN {nodes})",
        "identity_conflicts": f"(node IN {nodes} OR kept IN {nodes} OR refused IN {nodes})",
        "events": events,
    }


def derived(person: ErasedPerson) -> dict[str, str]:
    """Table that is made from others -> which of its rows are hers."""
    hers = _among(_hers(person))
    return {"identity_stamped": f"profile_id IN {hers}", "identity_overrides": f"(profile_id IN {hers} OR canonical IN {hers})"}


def beside(person: ErasedPerson) -> str:
    """Which events of others name her too."""
    until = f"fromUnixTimestamp64Milli(toInt64({int(person.until)}))"
    return f"({_any('identifiers', person.nodes)} AND collector_ts <= {until} AND node NOT IN {_among(person.nodes)})"


def audited(person: ErasedPerson) -> str:
    """Which rows of `consent_audit` are hers: they prove what was consented to, and stay."""
    return f"subject IN {_among(person.nodes)}"


def counts(store: Store, person: ErasedPerson) -> dict[str, int]:
    """Table -> rows that are hers, and events of others that name her. Retryable."""
    tables = conditions(store.database, person) | derived(person)
    rows = {table: _count(store, table, condition) for table, condition in tables.items()}
    return {**rows, IDENTIFIERS: _count(store, "events", f"{beside(person)} AND NOT {_events(store, person)}")}


def erase(store: Store, request_id: str, person: ErasedPerson) -> dict[str, int]:
    """Remove them; table -> rows removed by this request, by whichever run of it. Retryable."""
    removed_rows = remove(store, request_id, conditions(store.database, person))
    for table, condition in derived(person).items():
        _mutate(store, table, request_id, "DELETE", condition)
    named = _count(store, "events", beside(person))
    taken_out = f"UPDATE identifiers = arrayFilter(item -> item NOT IN {_among(person.nodes)}, identifiers)"
    _mutate(store, "events", request_id, taken_out, beside(person))
    return removed_rows | {IDENTIFIERS: named}


def remove(store: Store, request_id: str, predicates: Mapping[str, str]) -> dict[str, int]:
    """Remove rows, given as table -> condition; table -> rows removed by this request, by whichever run of it. Retryable."""
    if not PLAIN.fullmatch(request_id):
        raise ValueError("a request id that is none")
    base, marked = ddl.quoted(store.database), f"request_id = '{request_id}'"
    for table, predicate in predicates.items():
        store.long_command(
            f"INSERT INTO {base}.erased_rows (table_name, _topic_id, _partition, _offset, request_id) "  # noqa: S608 - ours
            f"SELECT '{table}', _topic_id, _partition, _offset, '{request_id}' FROM {base}.{table} WHERE {predicate}"
        )
    for table in predicates:
        places = f"(SELECT _topic_id, _partition, _offset FROM {base}.erased_rows WHERE table_name = '{table}' AND {marked})"  # noqa: S608
        _mutate(store, table, request_id, "DELETE", f"(_topic_id, _partition, _offset) IN {places}")
    counts = removed(store, request_id)
    return {table: counts.get(table, 0) for table in predicates}


def removed(store: Store, request_id: str) -> dict[str, int]:
    """Table -> rows that a request removed, in all its runs. Retryable."""
    query = (
        "SELECT table_name, uniqExact(_topic_id, _partition, _offset) "  # noqa: S608 - names of our own
        f"FROM {ddl.quoted(store.database)}.erased_rows "
        "WHERE request_id = {request:String} GROUP BY table_name"
    )
    return {str(table): int(n) for table, n in store.rows(query, {"request": request_id})}


def lines(store: Store, table: str, person: ErasedPerson) -> Iterator[bytes]:
    """Her rows of a table as JSON, a line each."""
    condition = audited(person) if table == "consent_audit" else conditions(store.database, person)[table]
    return store.lines(f"SELECT * FROM {ddl.quoted(store.database)}.{table} WHERE {condition}")  # noqa: S608 - checked ids


def _mutate(store: Store, table: str, request_id: str, action: str, condition: str) -> None:
    """Rewrite what a condition fits, and wait for it; one that still runs from an earlier try is waited for first."""
    name = f"{ddl.quoted(store.database)}.{table}"
    running = (
        f"SELECT count() FROM system.mutations WHERE database = '{store.database}' AND table = '{table}' "  # noqa: S608 - ours
        f"AND NOT is_done AND (position(command, '{request_id}') > 0 OR position(command, 'arrayFilter') > 0)"
    )
    if store.rows(running)[0][0]:
        raise Retryable(f"rows of {table} are still being removed")
    if _count(store, table, condition):
        store.long_command(
            f"ALTER TABLE {name} {action} WHERE {condition} SETTINGS mutations_sync = 1, allow_nondeterministic_mutations = 1"
        )


def _count(store: Store, table: str, condition: str) -> int:
    query = f"SELECT count() FROM {ddl.quoted(store.database)}.{table} WHERE {condition}"  # noqa: S608 - checked ids
    return int(store.long_rows(query)[0][0])


def _events(store: Store, person: ErasedPerson) -> str:
    return conditions(store.database, person)["events"]


def _hers(person: ErasedPerson) -> list[str]:
    return sorted(set(person.profiles) - set(person.shared))


def _among(ids: Sequence[str]) -> str:
    return f"({', '.join(quoted(ids)) or _NOBODY})"


def _any(column: str, ids: Sequence[str]) -> str:
    """Whether an array names one of them; a set, because `hasAny` compares each with each."""
    return f"arrayExists(item -> item IN {_among(ids)}, {column})"


_NOBODY = "'-'"


def quoted(ids: Sequence[str]) -> list[str]:
    """Ids as texts in SQL; ValueError for what is none."""
    if not all(map(PLAIN.fullmatch, ids)):
        raise ValueError("an id that is none")
    return [f"'{identifier}'" for identifier in ids]


__all__ = [
    "IDENTIFIERS",
    "NAMES",
    "ErasedPerson",
    "audited",
    "conditions",
    "counts",
    "erase",
    "erased_person",
    "lines",
    "quoted",
    "remove",
    "removed",
]  # fmt: skip

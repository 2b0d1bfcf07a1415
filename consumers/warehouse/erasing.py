"""Erases a person's rows from every table that names a person.

The positions of the rows are written to `erased_rows` first, without identifiers, and then the rows are deleted. A replay
counts these positions as present and does not fill them in; after a crash in between, the next run deletes the other rows.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from consumers.warehouse.schema import ddl
from consumers.warehouse.store import Store
from infra.errors import Retryable

PLAIN = re.compile(r"[0-9a-f]{32,33}")
"""Ids that need no escaping in a statement."""
IDENTIFIERS = "events.identifiers"
"""Label of ids of the person in events of others: the id is removed from the array, the row stays."""


class ErasedPerson(NamedTuple):
    """Selects the rows of one person."""

    nodes: Sequence[str]
    profiles: Sequence[str]
    """Profiles that the person's events can carry."""
    shared: Sequence[str]
    """Nodes of these that several persons use: events of such a node alone do not belong to the person."""
    until: int
    """Only rows collected until then are erased, milliseconds UTC: later rows belong to a new profile."""


def erased_person(record: Mapping[str, Any]) -> ErasedPerson:
    """The person that a record of `privacy.erasures` names."""
    return ErasedPerson(record["nodes"], record["profiles"], record["shared"], record["erased_ts"])


def row_conditions(database: str, person: ErasedPerson) -> dict[str, str]:
    """Table -> SQL condition on the person's rows. Outcomes first: they are found by decisions and events, deleted later."""
    base, nodes = ddl.quoted(database), _in_list(person.nodes)
    until = f"fromUnixTimestamp64Milli(toInt64({int(person.until)}))"
    events = (
        f"((node IN {nodes} AND collector_ts <= {until}) OR (profile_id IN {_in_list(person.profiles)} AND "
        f"(node NOT IN {_in_list(person.shared)} OR {_contains_any('identifiers', person.nodes)})))"
    )
    decisions = f"(visitor IN {nodes} AND decided_ts <= {until})"
    return {
        "bandit_outcomes": (
            f"(decision_id IN (SELECT decision_id FROM {base}.bandit_decisions WHERE {decisions}) OR event_id IN "  # noqa: S608 - checked ids
            f"(SELECT event_id FROM {base}.events WHERE decision_token != '' AND {events}))"
        ),
        "bandit_decisions": decisions,
        "consent_revocations": f"(subject IN {nodes} AND received_ts <= {until})",
        "privacy_requests": (
            f"((subject IN {nodes} OR {_contains_any('nodes', person.nodes)} "
            f"OR {_contains_any('profiles', _own_profiles(person))}) AND requested_ts <= {until})"
        ),
        "identity_merges": f"(node IN {nodes} OR parent IN {nodes})",
        "identity_conflicts": f"(node IN {nodes} OR kept IN {nodes} OR refused IN {nodes})",
        "events": events,
    }


def derived_conditions(person: ErasedPerson) -> dict[str, str]:
    """Table that is derived from others -> SQL condition on the person's rows."""
    hers = _in_list(_own_profiles(person))
    return {"identity_stamped": f"profile_id IN {hers}", "identity_overrides": f"(profile_id IN {hers} OR canonical IN {hers})"}


def mention_condition(person: ErasedPerson) -> str:
    """SQL condition on events of others that name the person too."""
    until = f"fromUnixTimestamp64Milli(toInt64({int(person.until)}))"
    return (
        f"({_contains_any('identifiers', person.nodes)} AND collector_ts <= {until} AND node NOT IN {_in_list(person.nodes)})"
    )


def audit_condition(person: ErasedPerson) -> str:
    """SQL condition on the person's rows of `consent_audit`, which stay as the proof of consent."""
    return f"subject IN {_in_list(person.nodes)}"


def count_rows(store: Store, person: ErasedPerson) -> dict[str, int]:
    """Table -> number of the person's rows, and the number of events of others that name the person. Retryable."""
    tables = row_conditions(store.database, person) | derived_conditions(person)
    rows = {table: _count(store, table, condition) for table, condition in tables.items()}
    mentions = f"{mention_condition(person)} AND NOT {tables['events']}"
    return {**rows, IDENTIFIERS: _count(store, "events", mentions)}


def erase_rows(store: Store, request_id: str, person: ErasedPerson) -> dict[str, int]:
    """Erase the person's rows; table -> rows removed by all runs of this request. Retryable."""
    removed_rows = remove_rows(store, request_id, row_conditions(store.database, person))
    for table, condition in derived_conditions(person).items():
        _mutate(store, table, request_id, "DELETE", condition)
    named = _count(store, "events", mention_condition(person))
    taken_out = f"UPDATE identifiers = arrayFilter(item -> item NOT IN {_in_list(person.nodes)}, identifiers)"
    _mutate(store, "events", request_id, taken_out, mention_condition(person))
    return removed_rows | {IDENTIFIERS: named}


def remove_rows(store: Store, request_id: str, predicates: Mapping[str, str]) -> dict[str, int]:
    """Delete rows given as table -> condition; table -> rows removed by all runs of this request. Retryable."""
    if not PLAIN.fullmatch(request_id):
        raise ValueError("a request id that is none")
    base, marked = ddl.quoted(store.database), f"request_id = '{request_id}'"
    for table, predicate in predicates.items():
        store.long_command(
            f"INSERT INTO {base}.erased_rows (table_name, _topic_id, _partition, _offset, request_id) "  # noqa: S608 - ours
            f"SELECT '{table}', _topic_id, _partition, _offset, '{request_id}' FROM {base}.{table} WHERE {predicate}"
        )
    for table in predicates:
        places = f"(SELECT _topic_id, _partition, _offset FROM {base}.erased_rows WHERE table_name = '{table}' AND {marked})"  # noqa: S608 - checked ids
        _mutate(store, table, request_id, "DELETE", f"(_topic_id, _partition, _offset) IN {places}")
    counts = count_removed(store, request_id)
    return {table: counts.get(table, 0) for table in predicates}


def count_removed(store: Store, request_id: str) -> dict[str, int]:
    """Table -> rows that a request removed in all its runs. Retryable."""
    query = (
        "SELECT table_name, uniqExact(_topic_id, _partition, _offset) "  # noqa: S608 - names of our own
        f"FROM {ddl.quoted(store.database)}.erased_rows "
        "WHERE request_id = {request:String} GROUP BY table_name"
    )
    return {str(table): int(n) for table, n in store.rows(query, {"request": request_id})}


def export_rows(store: Store, table: str, person: ErasedPerson) -> Iterator[bytes]:
    """The person's rows of a table as JSON, one line a row. Retryable."""
    condition = audit_condition(person) if table == "consent_audit" else row_conditions(store.database, person)[table]
    return store.stream_json(f"SELECT * FROM {ddl.quoted(store.database)}.{table} WHERE {condition}")  # noqa: S608 - checked ids


def _mutate(store: Store, table: str, request_id: str, action: str, condition: str) -> None:
    """Rewrite the rows that match and wait for the mutation. Retryable while one of an earlier run is still running."""
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


def _own_profiles(person: ErasedPerson) -> list[str]:
    return sorted(set(person.profiles) - set(person.shared))


def _in_list(ids: Sequence[str]) -> str:
    return f"({', '.join(quote_ids(ids)) or _NO_ID})"


def _contains_any(column: str, ids: Sequence[str]) -> str:
    """SQL: whether an array contains one of the ids. A set lookup, because `hasAny` compares every pair."""
    return f"arrayExists(item -> item IN {_in_list(ids)}, {column})"


_NO_ID = "'-'"


def quote_ids(ids: Sequence[str]) -> list[str]:
    """Ids as SQL strings. ValueError for anything that is not an id."""
    if not all(map(PLAIN.fullmatch, ids)):
        raise ValueError("an id that is none")
    return [f"'{identifier}'" for identifier in ids]


__all__ = [
    "IDENTIFIERS", "ErasedPerson", "audit_condition", "count_removed", "count_rows", "erase_rows", "erased_person",
    "export_rows", "quote_ids", "remove_rows", "row_conditions",
]  # fmt: skip

"""Rewrites the profile of past events after a split.

`headwater identity split` and `tidy` say which nodes' events belong to which profile now; `restamp` rewrites the rows that
carry the profile of another part. It is idempotent.
"""

import re
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from consumers.warehouse.store import Store
from infra.errors import Retryable
from streams.identity.repair.split import ProfileRewrite
from streams.identity.repair.splitting import SplitJournal

T = TypeVar("T")

NODES, PAIRS = 2_000, 1_000
"""Limits of one statement: ClickHouse accepts 256 KB."""
PATIENCE_S = 3_600.0
LATE_MS = 600_000
"""Within this time every worker applies a split, and the rows that it stamped before are loaded."""
_NODE = re.compile(r"[0-9][0-9a-f]{32}")


class StaleRows(NamedTuple):
    """Rows of one owner that carry a profile of another part."""

    owner: str
    """Node whose part the rows belong to."""
    profile: str
    """Profile that the rows carry."""
    corrected: str
    """Profile of the owner's part."""
    rows: int


def restamp(store: Store, removed: Collection[str], journal: SplitJournal, patience_s: float = PATIENCE_S) -> int:
    """Rewrite the profile of past events after a split; return the number of stale rows. Retryable.

    `removed`: every node that was taken out of this component, by this split or another. An event of a removed node belongs to
    the owner of its other nodes. `journal.former_profiles` lists every profile that these events can carry; a profile of the
    event's own part stays, because readers map it to the part's root. Events from long after the split stay too.
    """
    if not store.rows(f"SELECT 1 FROM system.tables WHERE database = '{store.database}' AND name = 'events'"):  # noqa: S608 - ours
        return 0
    parts = {node: rewrite for rewrite in journal.rewrites for node in rewrite.nodes}
    out = _quoted(sorted(removed))
    owner = f"if(node IN ({out}), arrayFirst(item -> item NOT IN ({out}), arrayPushBack(identifiers, '')), '')"
    owner = f"if({owner} = '', node, {owner})"
    soon = f" AND collector_ts <= fromUnixTimestamp64Milli(toInt64({journal.at_ms + LATE_MS}))" if journal.at_ms else ""
    count = 0
    for nodes in _chunks(sorted({*parts, *removed}), NODES):
        condition = f"node IN ({_quoted(nodes)}){soon}"
        stamps = store.rows(
            f"SELECT {owner} AS who, profile_id, count() FROM {store.database}.events WHERE {condition} "  # noqa: S608 - checked
            "GROUP BY who, profile_id"
        )
        for stale in _chunks(_stale(stamps, parts, removed, frozenset(journal.former_profiles)), PAIRS):
            _update(store, owner, condition, stale)
            count += sum(group.rows for group in stale)
    if count:
        _wait(store, time.monotonic() + patience_s)
    return count


def _stale(
    stamps: Iterable[Sequence[Any]], parts: Mapping[str, ProfileRewrite], removed: Collection[str], candidates: Collection[str]
) -> list[StaleRows]:
    """Stamps (owner, profile, rows) whose profile is a candidate and not one of the owner's part."""
    return [
        StaleRows(owner, profile, part.profile, rows)
        for owner, profile, rows in stamps
        if profile in candidates
        and (part := parts.get(owner)) is not None
        # A profile of the part itself stays; a removed node belongs to no part.
        and profile != part.profile
        and (profile in removed or parts.get(profile) is not part)
    ]


def group_by_component(journals: Mapping[str, SplitJournal]) -> dict[str, set[str]]:
    """Removed node -> all nodes of `journals` that were removed from the same component, itself included."""
    by_node: defaultdict[str, set[str]] = defaultdict(set)
    for node, journal in journals.items():
        for member in journal.former_profiles:
            by_node[member].add(node)
    return {node: {node}.union(*(by_node[member] for member in journal.former_profiles)) for node, journal in journals.items()}


def _update(store: Store, owner: str, condition: str, stale: Sequence[StaleRows]) -> None:
    profiles = {group.owner: group.corrected for group in stale}
    old = ", ".join(f"({_quoted([group.owner])}, {_quoted([group.profile])})" for group in stale)
    new = f"transform({owner}, [{_quoted(profiles)}], [{_quoted(profiles.values())}], profile_id)"
    store.command(
        f"ALTER TABLE {store.database}.events UPDATE profile_id = {new} WHERE {condition} AND ({owner}, profile_id) IN ({old})"
    )


def _wait(store: Store, deadline: float) -> None:
    """Wait until no mutation of `events` runs. Retryable after the deadline (monotonic seconds)."""
    query = f"SELECT count() FROM system.mutations WHERE database = '{store.database}' AND table = 'events' AND NOT is_done"  # noqa: S608 - ours
    while store.rows(query)[0][0]:
        if time.monotonic() > deadline:
            raise Retryable("ClickHouse still rewrites past events")
        time.sleep(0.2)


def _quoted(names: Iterable[str]) -> str:
    """Nodes and profiles as SQL strings; ValueError for anything else."""
    ids = list(names)
    if not all(map(_NODE.fullmatch, ids)):
        raise ValueError("neither a node nor a profile")
    return ", ".join(f"'{name}'" for name in ids)


def _chunks(items: Sequence[T], n: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), n):
        yield items[start : start + n]

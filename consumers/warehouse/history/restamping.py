"""Past events of a component that was split: their profile rewritten by node.

`headwater identity split` and `tidy` say which nodes' events belong to which profile now; `restamp(Store(settings), taken,
done)` rewrites those rows that are stamped with what is another part's. Doing it twice changes nothing.
"""

import re
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from consumers.warehouse.store import Store
from infra.errors import Retryable
from streams.identity.repair.splitting import SplitJournal

NODES, PAIRS = 2_000, 1_000
"""Of one statement: ClickHouse takes 256 KB."""
PATIENCE_S = 3_600.0
LATE_MS = 600_000
"""In which every worker has heard of a split, and what it had stamped before is loaded."""
_NODE = re.compile(r"[0-9][0-9a-f]{32}")


def restamp(store: Store, taken: Collection[str], done: SplitJournal, patience_s: float = PATIENCE_S) -> int:
    """Rewrite the profile of past events after a split; how many rows were stale. Retryable.

    `taken`: every node that was taken out of this component, by this split or another. An event of them belongs to whom its
    other nodes belong to. `former_profiles`: profile ids that these events may carry; a profile among an event's own
    part is mapped to the part's root by its readers, and stays. So do events that came long after the split.
    """
    if not store.rows(f"SELECT 1 FROM system.tables WHERE database = '{store.database}' AND name = 'events'"):  # noqa: S608 - ours
        return 0
    part = {one: said for said in done.rewrites for one in said.nodes}
    known = frozenset(done.former_profiles)
    rows = 0
    out = _quoted(sorted(taken))
    who = f"if(node IN ({out}), arrayFirst(one -> one NOT IN ({out}), arrayPushBack(identifiers, '')), '')"
    who = f"if({who} = '', node, {who})"
    soon = f" AND collector_ts <= fromUnixTimestamp64Milli(toInt64({done.at_ms + LATE_MS}))" if done.at_ms else ""
    for nodes in _some(sorted({*part, *taken}), NODES):
        where = f"node IN ({_quoted(nodes)}){soon}"
        found = store.rows(
            f"SELECT {who} AS who, profile_id, count() FROM {store.database}.events WHERE {where} GROUP BY who, profile_id"  # noqa: S608 - checked
        )
        stale = [
            (who, profile, said.profile, n)
            for who, profile, n in found
            if profile in known
            and (said := part.get(who)) is not None
            # What is of the part itself stays; a node that was taken out is nobody's part.
            and profile != said.profile
            and (profile in taken or part.get(profile) is not said)
        ]
        for pairs in _some(stale, PAIRS):
            _update(store, who, where, pairs)
            rows += sum(n for *_, n in pairs)
    if rows:
        _wait(store, time.monotonic() + patience_s)
    return rows


def together(done: Mapping[str, SplitJournal]) -> dict[str, set[str]]:
    """Node that was taken out -> all of `done` that were taken out of the same component, itself too."""
    by_node: defaultdict[str, set[str]] = defaultdict(set)
    for node, journal in done.items():
        for one in journal.former_profiles:
            by_node[one].add(node)
    return {node: {node}.union(*(by_node[one] for one in journal.former_profiles)) for node, journal in done.items()}


def _update(store: Store, who: str, where: str, pairs: Sequence[tuple[str, str, str, int]]) -> None:
    profiles = {who: profile for who, _, profile, _ in pairs}
    old = ", ".join(f"({_quoted([who])}, {_quoted([profile])})" for who, profile, _, _ in pairs)
    new = f"transform({who}, [{_quoted(profiles)}], [{_quoted(profiles.values())}], profile_id)"
    store.command(
        f"ALTER TABLE {store.database}.events UPDATE profile_id = {new} WHERE {where} AND ({who}, profile_id) IN ({old})"
    )


def _wait(store: Store, deadline: float) -> None:
    """Until the rewriting of the table is done."""
    query = f"SELECT count() FROM system.mutations WHERE database = '{store.database}' AND table = 'events' AND NOT is_done"  # noqa: S608 - ours
    while store.rows(query)[0][0]:
        if time.monotonic() > deadline:
            raise Retryable("ClickHouse still rewrites past events")
        time.sleep(0.2)


def _quoted(names: Iterable[str]) -> str:
    """Nodes and profiles as SQL strings; ValueError for anything else."""
    found = list(names)
    if not all(map(_NODE.fullmatch, found)):
        raise ValueError("neither a node nor a profile")
    return ", ".join(f"'{name}'" for name in found)


def _some(all_of: Sequence[Any], n: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(all_of), n):
        yield all_of[start : start + n]

"""Four methods that others use to resolve identities; the identity stage itself is in `stage_contender.py`.

All see the same events in the same order, after the same filter of blocked literals. Duplicates are shown to the stage only,
which drops them itself.
"""

import sqlite3
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain, combinations

from bench.identity.metrics import Canonicals
from bench.identity.results import BATCH, Advance, ContenderResult, batches
from bench.identity.unions import Unions
from bench.identity.world import WorldEvent
from streams.identity.graph.limits import USER

EMAIL = "3"
CAPS: Mapping[tuple[str, str], int] = {
    ("1", "2"): 12, ("1", "0"): 3, ("2", "0"): 3, ("3", "0"): 1, ("3", "1"): 8, ("3", "2"): 8,
}  # fmt: skip
"""(Tier, tier of others) -> how many others it may be linked with. A cookie counts as a device, except on a device."""


def union_of_all(events: Sequence[WorldEvent], advance: Advance, size: int = BATCH) -> ContenderResult:
    """Union-find without limits: all nodes of one event are one person for ever."""
    began, unions, at_arrival = time.perf_counter(), Unions(), list[int]()
    for part in batches(events, advance, size):
        for event in part:
            first, *others = map(unions.number, event.nodes)
            for other in others:
                unions.join(first, other)
        at_arrival += (unions.find(unions.number(event.nodes[0])) for event in part)
    return _union_result(unions, events, at_arrival, began)


def capped_union(events: Sequence[WorldEvent], advance: Advance, size: int = BATCH) -> ContenderResult:
    """As the union of all, without links that would give an end more others than `CAPS` allows.

    An event belongs to its strongest node.
    """
    began, unions, at_arrival = time.perf_counter(), Unions(), list[int]()
    others: defaultdict[tuple[str, str], set[str]] = defaultdict(set)

    def fits(node: str, other: str) -> bool:
        linked = others[node, other[0]]
        return other in linked or len(linked) < CAPS.get((node[0], other[0]), len(linked) + 1)

    for part in batches(events, advance, size):
        for strong, weak in (pair for event in part for pair in combinations(event.nodes, 2)):
            if fits(strong, weak) and fits(weak, strong):
                others[strong, weak[0]].add(weak)
                others[weak, strong[0]].add(strong)
                unions.join(unions.number(strong), unions.number(weak))
        at_arrival += (unions.find(unions.number(event.nodes[0])) for event in part)
    return _union_result(unions, events, at_arrival, began)


def _union_result(unions: Unions, events: Sequence[WorldEvent], at_arrival: Canonicals, began: float) -> ContenderResult:
    finals = [unions.find(unions.number(event.nodes[0])) for event in events]
    return ContenderResult(finals, at_arrival, time.perf_counter() - began)


def unique_only(events: Sequence[WorldEvent], advance: Advance) -> ContenderResult:
    """Only user ids and e-mails make a person; computed over the whole history at once.

    1. An e-mail that occurs with exactly one user belongs to that user; any other is a person of its own.
    2. A device or cookie that occurs with exactly one user belongs to that user; if it occurs with none, but with exactly one
       e-mail, to that e-mail. Any other is a person of its own. Devices and cookies never link each other.
    3. An event belongs to its user; without one to the owner of its strongest node that has one; else to its strongest node.
    """
    began = time.perf_counter()
    users: defaultdict[str, set[str]] = defaultdict(set)
    emails: defaultdict[str, set[str]] = defaultdict(set)
    for event in chain.from_iterable(batches(events, advance, BATCH)):
        for node in event.nodes:
            users[node].update(other for other in event.nodes if other[0] == USER)
            emails[node].update(other for other in event.nodes if other[0] == EMAIL)

    def owner(node: str) -> str:
        if len(users[node]) == 1:
            return next(iter(users[node]))
        if not users[node] and len(emails[node]) == 1 and node[0] != EMAIL:
            return owner(next(iter(emails[node])))
        return node

    owners = {node: owner(node) for node in users}
    finals = []
    for event in events:
        owned = (owners[node] for node in event.nodes if owners[node] != node or node[0] == USER)
        finals.append(next(owned, event.nodes[0]))
    return ContenderResult(finals, None, time.perf_counter() - began)


def labels_in_sql(events: Sequence[WorldEvent], advance: Advance) -> ContenderResult:
    """A warehouse's batch job: propagate the smallest label to neighbours until nothing changes. In SQLite."""
    began, unions = time.perf_counter(), Unions()
    rows = set[tuple[int, int]]()
    for event in chain.from_iterable(batches(events, advance, BATCH)):
        first, *others = map(unions.number, event.nodes)
        rows.add((first, first))
        rows.update(pair for other in others for pair in ((first, other), (other, first), (other, other)))
    base = sqlite3.connect(":memory:")
    base.execute("CREATE TABLE edges (a INTEGER, b INTEGER, PRIMARY KEY (a, b)) WITHOUT ROWID")
    base.execute("CREATE TABLE labels (node INTEGER PRIMARY KEY, label INTEGER)")
    base.executemany("INSERT INTO edges VALUES (?, ?)", sorted(rows))
    base.execute("INSERT INTO labels SELECT DISTINCT a, a FROM edges")
    smaller = """
        UPDATE labels SET label = least FROM (
            SELECT a, min(label) AS least FROM edges JOIN labels ON node = b GROUP BY a
        ) WHERE node = a AND least < label"""
    while base.execute(smaller).rowcount:
        pass
    labels: dict[int, int] = dict(base.execute("SELECT node, label FROM labels"))
    base.close()
    finals = [labels[unions.number(event.nodes[0])] for event in events]
    return ContenderResult(finals, None, time.perf_counter() - began)

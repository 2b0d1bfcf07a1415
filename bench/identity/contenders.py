"""Who competes: the identity stage, and four ways in which others resolve identities.

All see the same events in the same order, and the same filter of blocked literals has passed over them. The stage meets the
duplicates and drops them itself; to the others they are not shown.
"""

import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations

from bench.identity.metrics import Canonicals, first_deliveries
from bench.identity.unions import Unions
from bench.identity.world import WorldEvent
from consumers.warehouse.history.restamping import group_by_component
from infra.secrets import Secret
from infra.settings import PACKAGED_CONTRACTS
from infra.telemetry.metrics import Metrics
from schemas.codec import decode, encode
from schemas.registry import Registry
from streams.identity.evidence import CONFLICTS, LINKS
from streams.identity.graph.hubs import collect
from streams.identity.graph.identifier_set import SHARED_IDS
from streams.identity.graph.slots import MERGES, SlotLog
from streams.identity.graph.store import MemoryGraphStore
from streams.identity.graph.union_find import USER, Slot
from streams.identity.nodes import alias
from streams.identity.reading import CONSENTED, DAY_MS, RESOLVED
from streams.identity.repair.splitting import Log, SplitJournal
from streams.identity.repair.tidying import hubs, tidy
from streams.identity.stage import IdentityDependencies, IdentityStage
from streams.runtime.stage import Batch

BATCH = 500
"""Events that are resolved together: what a batch learns, all of its events are stamped by, whoever resolves it.

Two months pass here in so few events that 500 are two hours, which leaves fewer stamps stale than in a busy stream; with 1,
everything is learnt as late as it can be.
"""
EMAIL = "3"
ALIAS = alias(Secret("a benchmark has nothing to hide, but forty characters"))
CAPS: Mapping[tuple[str, str], int] = {
    ("1", "2"): 12, ("1", "0"): 3, ("2", "0"): 3, ("3", "0"): 1, ("3", "1"): 8, ("3", "2"): 8,
}  # fmt: skip
"""(tier, tier of others) -> with how many others it may be linked. A cookie counts as a device, except on a device."""

Advance = Callable[[int], None]
"""Told how many events were done."""


@dataclass(frozen=True)
class ContenderResult:
    """What a contender made of the events, duplicates left out."""

    canonicals: Canonicals
    stamped: Canonicals | None
    """What each event was stamped with when it came; None for those that compute everything anew."""
    seconds: float
    """For the resolution alone; encoding, decoding of what left, and scoring are not in it."""
    nobodys: frozenset[str] = frozenset()
    """Canonicals that are said to be no person's: events of nodes that were found to be shared."""


class ContenderStage:
    """The identity stage over the memory store, one worker, committed batch by batch; it hears its log, as any does."""

    def __init__(self) -> None:
        self._registry = Registry(PACKAGED_CONTRACTS)
        self.store = MemoryGraphStore()
        self._stage = IdentityStage(self._registry, self.store, Metrics(), IdentityDependencies(ALIAS))
        self._slots = SlotLog(self._registry)
        self._start = 0
        self.stamped: dict[str, str] = {}
        """Event id -> profile."""
        self.nobodys: set[str] = set()
        self.evidence: dict[bytes | None, tuple[tuple[str, ...], int]] = {}
        """What `identity.links` holds: nodes, and the day."""
        self.demoted: dict[str, int] = {}
        """Node -> the first record (its number in the order of arrival) of the batch that demoted it."""
        self.seconds = 0.0

    def take(self, part: Sequence[WorldEvent]) -> None:
        """Resolve a batch."""
        registry, room = self._registry, self._stage
        values = [consented(registry, event) for event in part]
        places = range(self._start, self._start + len(part))
        batch = Batch(CONSENTED, 0, [event.nodes[0].encode() for event in part], values, places)
        began = time.perf_counter()
        outcome = room.handle(batch, part[-1].arrived / 1_000)
        for hook in outcome.after_commit:
            hook()
        for topic in room.broadcast:
            room.on_broadcast(topic, [(key, value) for key, value, _ in outcome.out.get(topic, ())])
        self.seconds += time.perf_counter() - began
        for _, value, _ in outcome.out[RESOLVED]:
            record = decode(registry, value or b"")[1]
            self.stamped[record["event_id"]] = record["profile_id"]
            if record["identity_state"] == SHARED_IDS:
                self.nobodys.add(record["profile_id"])
        for key, value, _ in outcome.out.get(LINKS, ()):
            link = decode(registry, value or b"")[1]
            self.evidence[key] = tuple(link["nodes"]), link["evidence_ts"] // DAY_MS
        for key, _, _ in outcome.out.get(CONFLICTS, ()):
            self.demoted.setdefault((key or b"").decode(), self._start)
        self._start += len(part)

    def tidy(self, since: int, rows: Sequence[tuple[WorldEvent, str]]) -> list[str]:
        """What `headwater identity tidy` makes of the graph and of past rows (event, profile): their profiles. `since`: of ids
        that were demoted from that record on."""
        said = MemoryLinkLog([nodes for nodes, _ in self.evidence.values()])
        members = dict[str, dict[str, int]]()
        for nodes, day in self.evidence.values():
            collect(members, nodes, day, nodes)
        lately = [node for node, at in self.demoted.items() if at >= since]
        over = dict.fromkeys([*lately, *hubs(self.store, members, said)])
        journals = tidy(self.store, list(over), said, ALIAS, self._hear)
        return _rewritten({node: journal for node, journal in journals if journal is not None}, rows, self.nobodys)

    def _hear(self, _node: str) -> Log:
        def log(_kept: str, slots: Sequence[tuple[str, Slot]]) -> None:
            records = [self._slots.output(node, slot, "", 0)[:2] for node, slot in slots]
            self._stage.on_broadcast(MERGES, records)

        return log


def stage(events: Sequence[WorldEvent], advance: Advance, size: int = BATCH) -> tuple[ContenderResult, ContenderResult]:
    """The identity stage: as it stamped the events, and what `headwater identity tidy` then makes of the graph and of past
    rows."""
    room = ContenderStage()
    for part in _batches(events, advance, size):
        room.take(part)
    first = first_deliveries(events)
    profiles = [room.stamped[event.event_id] for event in first]
    as_stamped = _followed(room.store, profiles, room.seconds, room.nobodys)
    began = time.perf_counter()
    tidied = room.tidy(0, list(zip(first, profiles, strict=True)))
    return as_stamped, _followed(room.store, tidied, time.perf_counter() - began, room.nobodys)


def _followed(store: MemoryGraphStore, profiles: Sequence[str], seconds: float, nobodys: Iterable[str]) -> ContenderResult:
    finals = {profile: follow(store.slots, profile) for profile in set(profiles)}
    return ContenderResult([finals[profile] for profile in profiles], profiles, seconds, frozenset(nobodys))


class MemoryLinkLog:
    """Evidence that is all there."""

    def __init__(self, evidence: Iterable[tuple[str, ...]]) -> None:
        self._evidence = evidence

    def read(self, _nodes: Collection[str]) -> Iterable[tuple[str, ...]]:
        """All of it."""
        return self._evidence

    def news(self, _nodes: Collection[str]) -> Iterable[tuple[str, ...]]:
        """None."""
        return ()


def _rewritten(done: Mapping[str, SplitJournal], rows: Sequence[tuple[WorldEvent, str]], nobodys: set[str]) -> list[str]:
    """Profiles of past rows as `consumers/warehouse/history/restamping.py` rewrites them, once these nodes were taken out."""
    events, profiles = zip(*rows, strict=True)
    found, taken = list(profiles), group_by_component(done)
    concerned = {node for journal in done.values() for said in journal.restamps for node in said.nodes}.union(*taken.values())
    places = defaultdict[str, list[int]](list)
    for at, event in enumerate(events):
        if event.nodes[0] in concerned:
            places[event.nodes[0]].append(at)
    for node, journal in done.items():
        part = {one: said for said in journal.restamps for one in said.nodes}
        for at in {at for one in {*part, *taken[node]} for at in places[one]}:
            event, profile = events[at], found[at]
            others = (other for other in event.nodes if other not in taken[node])
            who = next(others, event.nodes[0]) if event.nodes[0] in taken[node] else event.nodes[0]
            said = part.get(who)
            if said is None or profile not in journal.once or profile == said.profile:
                continue
            if profile in taken[node] or part.get(profile) is not said:
                found[at] = said.profile
                nobodys.update([said.profile] if who in taken[node] else ())
    return found


def consented(registry: Registry, event: WorldEvent) -> bytes:
    """The event as the consent room lets it pass, everything granted."""
    record = {
        "consent_outcome": "pass", "consent_purposes": 7, "consent_reasons": "", "consent_policy": "", "consent_evidence": "",
        "event_id": event.event_id, "event_name": "page_view", "source": "web", "site": "shop.example", "heartbeat": False,
        "collector_ts": event.arrived, "region": "", "signals": {}, "identifiers": list(event.nodes), "event_ts": event.ts,
        "event_ts_source": "", "protocol": "",
    }  # fmt: skip
    return encode(registry.latest(CONSENTED), record)


def follow(slots: Mapping[str, Slot], profile: str) -> str:
    """The canonical that a stamped profile leads to by now."""
    while (slot := slots.get(profile)) is not None and slot.parent != profile:
        if profile[0] == USER:
            return slot.parent
        profile = slot.parent
    return profile


def union_of_all(events: Sequence[WorldEvent], advance: Advance, size: int = BATCH) -> ContenderResult:
    """Whatever is seen in one event is one person, for ever."""
    began, unions, stamped = time.perf_counter(), Unions(), list[int]()
    for part in _batches(events, advance, size):
        for event in part:
            first, *others = map(unions.number, event.nodes)
            for other in others:
                unions.join(first, other)
        stamped += (unions.find(unions.number(event.nodes[0])) for event in part)
    return _ended(unions, events, stamped, began)


def capped_union(events: Sequence[WorldEvent], advance: Advance, size: int = BATCH) -> ContenderResult:
    """As the union of all, but a link is refused that would give one of its ends more others than `CAPS` allows.

    An event belongs to its strongest node.
    """
    began, unions, stamped = time.perf_counter(), Unions(), list[int]()
    others: defaultdict[tuple[str, str], set[str]] = defaultdict(set)

    def fits(node: str, other: str) -> bool:
        known = others[node, other[0]]
        return other in known or len(known) < CAPS.get((node[0], other[0]), len(known) + 1)

    for part in _batches(events, advance, size):
        for strong, weak in (pair for event in part for pair in combinations(event.nodes, 2)):
            if fits(strong, weak) and fits(weak, strong):
                others[strong, weak[0]].add(weak)
                others[weak, strong[0]].add(strong)
                unions.join(unions.number(strong), unions.number(weak))
        stamped += (unions.find(unions.number(event.nodes[0])) for event in part)
    return _ended(unions, events, stamped, began)


def _batches(events: Sequence[WorldEvent], advance: Advance, size: int) -> Iterator[Sequence[WorldEvent]]:
    """The events, `size` at a time; progress is told now and then, so that telling takes no time."""
    told = 0
    for start in range(0, len(events), size):
        yield events[start : start + size]
        done = min(start + size, len(events))
        if done - told >= BATCH or done == len(events):
            advance(done - told)
            told = done


def _ended(unions: Unions, events: Sequence[WorldEvent], stamped: Canonicals, began: float) -> ContenderResult:
    finals = [unions.find(unions.number(event.nodes[0])) for event in events]
    return ContenderResult(finals, stamped, time.perf_counter() - began)


def unique_only(events: Sequence[WorldEvent], advance: Advance) -> ContenderResult:
    """Only user ids and e-mails make a person; computed over the whole history at once.

    1. An e-mail that was seen with exactly one user belongs to that user; any other is a person of its own.
    2. A device or cookie that was seen with exactly one user belongs to that user; if it was seen with none, but with
       exactly one e-mail, to that e-mail. Any other is a person of its own. Devices and cookies never link each other.
    3. An event belongs to its user; without one to whom its strongest node that belongs to somebody belongs; else to its
       strongest node.
    """
    began = time.perf_counter()
    users: defaultdict[str, set[str]] = defaultdict(set)
    emails: defaultdict[str, set[str]] = defaultdict(set)
    for event in chain.from_iterable(_batches(events, advance, BATCH)):
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
    """A batch job in a warehouse: the smallest label among neighbours, again and again until nothing changes. In SQLite."""
    began, unions = time.perf_counter(), Unions()
    rows = set[tuple[int, int]]()
    for event in chain.from_iterable(_batches(events, advance, BATCH)):
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

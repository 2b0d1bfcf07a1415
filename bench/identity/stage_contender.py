"""The identity stage as a contender: on the memory store, with its own log as broadcast, and `headwater identity tidy`."""

import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

from bench.identity.metrics import first_deliveries
from bench.identity.results import BATCH, Advance, ContenderResult, batches
from bench.identity.world import WorldEvent
from consumers.warehouse.history.restamping import group_by_component
from infra.secrets import Secret
from infra.settings import PACKAGED_CONTRACTS
from infra.telemetry.metrics import Metrics
from schemas.codec import decode, encode
from schemas.registry import Registry
from streams.identity.evidence import CONFLICTS, LINKS
from streams.identity.graph.identifier_set import SHARED_IDS
from streams.identity.graph.limits import USER
from streams.identity.graph.slots import MERGES, SlotLog
from streams.identity.graph.store import MemoryGraphStore
from streams.identity.graph.union_find import Slot
from streams.identity.nodes import alias
from streams.identity.reading import CONSENTED, DAY_MS, RESOLVED
from streams.identity.repair.hubs import collect
from streams.identity.repair.splitting import SlotLogger, SplitJournal
from streams.identity.repair.tidying import find_hubs, tidy
from streams.identity.stage import IdentityDependencies, IdentityStage
from streams.runtime.stage import Batch

ALIAS = alias(Secret("a benchmark has nothing to hide, but forty characters"))


class ContenderStage:
    """The identity stage on the memory store: one worker, a commit for each batch, with its own log as broadcast."""

    def __init__(self) -> None:
        self._registry = Registry(PACKAGED_CONTRACTS)
        self.store = MemoryGraphStore()
        self._stage = IdentityStage(self._registry, self.store, Metrics(), IdentityDependencies(ALIAS))
        self._slots = SlotLog(self._registry)
        self._start = 0
        self.profile_by_event: dict[str, str] = {}
        """Event id -> profile id."""
        self.nobodys: set[str] = set()
        self.evidence: dict[bytes | None, tuple[tuple[str, ...], int]] = {}
        """Content of `identity.links`: nodes, and day of the evidence."""
        self.demoted: dict[str, int] = {}
        """Node -> number of the first record of the batch that demoted it."""
        self.seconds = 0.0

    def resolve_batch(self, part: Sequence[WorldEvent]) -> None:
        """Resolve a batch and commit it."""
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
            self.profile_by_event[record["event_id"]] = record["profile_id"]
            if record["identity_state"] == SHARED_IDS:
                self.nobodys.add(record["profile_id"])
        for key, value, _ in outcome.out.get(LINKS, ()):
            link = decode(registry, value or b"")[1]
            self.evidence[key] = tuple(link["nodes"]), link["evidence_ts"] // DAY_MS
        for key, _, _ in outcome.out.get(CONFLICTS, ()):
            self.demoted.setdefault((key or b"").decode(), self._start)
        self._start += len(part)

    def tidy(self, since: int, rows: Sequence[tuple[WorldEvent, str]]) -> list[str]:
        """Run `headwater identity tidy` for nodes demoted since record `since`; return the profiles of past rows (event,
        profile)."""
        log = MemoryLinkLog([nodes for nodes, _ in self.evidence.values()])
        members = dict[str, dict[str, int]]()
        for nodes, day in self.evidence.values():
            collect(members, nodes, day, nodes)
        lately = [node for node, at in self.demoted.items() if at >= since]
        over = dict.fromkeys([*lately, *find_hubs(self.store, members, log)])
        journals = tidy(self.store, list(over), log, ALIAS, self._log_writer)
        return _rewrite_profiles({node: journal for node, journal in journals if journal is not None}, rows, self.nobodys)

    def _log_writer(self, _node: str) -> SlotLogger:
        def log(_kept: str, slots: Sequence[tuple[str, Slot]]) -> None:
            records = [self._slots.encode_slot(node, slot, "", 0)[:2] for node, slot in slots]
            self._stage.on_broadcast(MERGES, records)

        return log


def stage(events: Sequence[WorldEvent], advance: Advance, size: int = BATCH) -> tuple[ContenderResult, ContenderResult]:
    """Run the identity stage; return its result, and the result after `headwater identity tidy`."""
    room = ContenderStage()
    for part in batches(events, advance, size):
        room.resolve_batch(part)
    first = first_deliveries(events)
    profiles = [room.profile_by_event[event.event_id] for event in first]
    unsplit = _canonicals_of(room.store, profiles, room.seconds, room.nobodys)
    began = time.perf_counter()
    tidied = room.tidy(0, list(zip(first, profiles, strict=True)))
    return unsplit, _canonicals_of(room.store, tidied, time.perf_counter() - began, room.nobodys)


def _canonicals_of(store: MemoryGraphStore, profiles: Sequence[str], seconds: float, nobodys: Iterable[str]) -> ContenderResult:
    finals = {profile: follow_profile(store.slots, profile) for profile in set(profiles)}
    return ContenderResult([finals[profile] for profile in profiles], profiles, seconds, frozenset(nobodys))


class MemoryLinkLog:
    """Complete evidence in memory."""

    def __init__(self, evidence: Iterable[tuple[str, ...]]) -> None:
        self._evidence = evidence

    def read(self, _nodes: Collection[str]) -> Iterable[tuple[str, ...]]:
        """Return all evidence."""
        return self._evidence

    def read_new(self, _nodes: Collection[str]) -> Iterable[tuple[str, ...]]:
        """Return nothing."""
        return ()


def _rewrite_profiles(
    journals: Mapping[str, SplitJournal], rows: Sequence[tuple[WorldEvent, str]], nobodys: set[str]
) -> list[str]:
    """Return the profiles of past rows after splits, as `consumers/warehouse/history/restamping.py` rewrites them."""
    events, profiles = zip(*rows, strict=True)
    rewritten, shared = list(profiles), group_by_component(journals)
    concerned = {node for journal in journals.values() for rewrite in journal.rewrites for node in rewrite.nodes}.union(
        *shared.values()
    )
    places = defaultdict[str, list[int]](list)
    for at, event in enumerate(events):
        if event.nodes[0] in concerned:
            places[event.nodes[0]].append(at)
    for node, journal in journals.items():
        part = {member: rewrite for rewrite in journal.rewrites for member in rewrite.nodes}
        for at in {at for member in {*part, *shared[node]} for at in places[member]}:
            event, profile = events[at], rewritten[at]
            others = (other for other in event.nodes if other not in shared[node])
            owner = next(others, event.nodes[0]) if event.nodes[0] in shared[node] else event.nodes[0]
            rewrite = part.get(owner)
            if rewrite is None or profile not in journal.former_profiles or profile == rewrite.profile:
                continue
            if profile in shared[node] or part.get(profile) is not rewrite:
                rewritten[at] = rewrite.profile
                nobodys.update([rewrite.profile] if owner in shared[node] else ())
    return rewritten


def consented(registry: Registry, event: WorldEvent) -> bytes:
    """Encode the event as the consent room passes it, with everything granted."""
    record = {
        "consent_outcome": "pass", "consent_purposes": 7, "consent_reasons": "", "consent_policy": "", "consent_evidence": "",
        "event_id": event.event_id, "event_name": "page_view", "source": "web", "site": "shop.example", "heartbeat": False,
        "collector_ts": event.arrived, "region": "", "signals": {}, "identifiers": list(event.nodes), "event_ts": event.ts,
        "event_ts_source": "", "protocol": "",
    }  # fmt: skip
    return encode(registry.latest(CONSENTED), record)


def follow_profile(slots: Mapping[str, Slot], profile: str) -> str:
    """Return the canonical that a profile leads to now."""
    while (slot := slots.get(profile)) is not None and slot.parent != profile:
        if profile[0] == USER:
            return slot.parent
        profile = slot.parent
    return profile

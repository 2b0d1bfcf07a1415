"""Attributes wrong events and lost pairs to causes. Uses the truth, which contenders never see."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence

from bench.identity.metrics import (
    Canonicals,
    conflicting_canonicals,
    main_owners,
    pair_count,
    people_by_canonical,
    person_components,
    same_nodes,
)
from bench.identity.world import KIOSK, OWN, IdentityWorld, WorldEvent

WORST_FIRST = (
    "junk user id", "junk e-mail", "junk device id", "kiosk", "forwarded newsletter", "household e-mail", "shared device",
)  # fmt: skip
"""Reasons why several persons have a node; the first that applies to a canonical counts."""
NO_EVIDENCE = "no evidence"


def wrong_by_cause(
    world: IdentityWorld, events: Sequence[WorldEvent], canonicals: Canonicals, nobodys: Collection[str | int] = ()
) -> dict[str, float]:
    """Return the share of all events that are wrong, by cause: place of the event, or what merged the person's own device.

    Events in canonicals that are declared to be nobody's are not wrong. Unavoidable: most events with the same nodes are
    another person's. Hidden: no identifier in the canonical occurs in events of two users, so no conflict reveals it; a limit
    may.
    """
    likeliest = main_owners(people_by_canonical(events, same_nodes(events)))
    owners = main_owners(people_by_canonical(events, canonicals))
    reasons = _reasons(world, events, canonicals)
    conflicts = conflicting_canonicals(events, canonicals)
    causes: Counter[str] = Counter()
    for event, canonical, alike in zip(events, canonicals, same_nodes(events), strict=True):
        if event.person != owners[canonical] and canonical not in nobodys:
            cause = f"own, merged by: {_worst(reasons[canonical])}" if event.place == OWN else f"at: {event.place}"
            if event.person != likeliest[alike]:
                cause = f"unavoidable, {cause}"
            elif canonical not in conflicts:
                cause = f"hidden, {cause}"
            causes[cause] += 1
    return {cause: n / len(events) for cause, n in causes.most_common()}


def lost_by_cause(world: IdentityWorld, events: Sequence[WorldEvent], canonicals: Canonicals) -> dict[str, float]:
    """Return the share of all pairs of one person's events in different canonicals, by cause.

    Pairs without any connecting evidence count apart. Of the others, those with an event at a shared place count there; the
    rest is attributed to the worst shared node of their component.
    """
    components = person_components(events)
    reasons = _reasons(world, events, components)
    tally: defaultdict[int, Counter[tuple[str | int, str]]] = defaultdict(Counter)
    for event, component, canonical in zip(events, components, canonicals, strict=True):
        tally[component][canonical, event.place] += 1
    whole = sum(pair_count(n) for n in Counter(event.person for event in events).values())
    lost: Counter[str] = Counter({NO_EVIDENCE: whole - sum(pair_count(sum(counts.values())) for counts in tally.values())})
    for component, counts in tally.items():
        at_home = _lost(counts, {OWN})
        anywhere_but_kiosks = _lost(counts, {place for _, place in counts} - {KIOSK})
        lost[f"own: {_worst(reasons[component])}"] += at_home
        lost["at: shared device"] += anywhere_but_kiosks - at_home
        lost["at: kiosk"] += _lost(counts, {place for _, place in counts}) - anywhere_but_kiosks
    return {cause: n / whole for cause, n in lost.most_common() if n}


def _lost(counts: Counter[tuple[str | int, str]], places: Iterable[str]) -> int:
    """Return the pairs of events at these places that are in different canonicals."""
    by_canonical: Counter[str | int] = Counter()
    for (canonical, place), n in counts.items():
        if place in places:
            by_canonical[canonical] += n
    return pair_count(sum(by_canonical.values())) - sum(pair_count(n) for n in by_canonical.values())


def _reasons(world: IdentityWorld, events: Sequence[WorldEvent], groups: Canonicals) -> defaultdict[str | int, set[str]]:
    """Map each group to the reasons why its nodes are shared."""
    reasons: defaultdict[str | int, set[str]] = defaultdict(set)
    for event, group in zip(events, groups, strict=True):
        reasons[group].update(world.shared_nodes[node] for node in event.nodes if node in world.shared_nodes)
    return reasons


def _worst(reasons: set[str]) -> str:
    return next((reason for reason in WORST_FIRST if reason in reasons), "nothing shared")

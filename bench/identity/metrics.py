"""Scores a contender by exact counts against the truth.

A canonical is what an event belongs to in the end. Its owner is the person with most of its events; its other events are wrong.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.identity.unions import Unions
from bench.identity.world import IdentityWorld, WorldEvent
from streams.identity.graph.limits import USER

Canonicals = Sequence[str | int]
"""Canonical of each event, in order."""


@dataclass(frozen=True)
class Score:
    """Shares are 0 to 1; None where a contender assigns nothing on arrival, because it recomputes everything."""

    wrong: float
    """Of events: in another person's canonical."""
    unattributed: float
    """Of events: in a canonical that is declared to be nobody's; never counted as wrong."""
    avoidable: float
    """Of events: wrong, though most events with the same nodes are of the event's person."""
    given_away: float
    """Of events: avoidable, and in a canonical with an id that occurs with several users, which a conflict could reveal."""
    wrong_known: float
    """Of events: wrong, and in a canonical with a user id: errors in a known customer's history."""
    canonicals: float
    """Canonicals of a person, mean over persons."""
    precision: float
    """Of pairs of events of one canonical: those of one person."""
    recall: float
    """Of pairs of events of one person: those of one canonical."""
    merged_people: int
    """Canonicals with events of several persons."""
    merged_accounts: int
    """Canonicals with events of several persons who have accounts."""
    merged_households: int
    """Canonicals with events of several households."""
    two_users: int
    """Canonicals whose events carry several user ids."""
    stale: float | None
    """Of events: with a profile on arrival that is not their canonical in the end."""
    overrides: float | None
    """Profiles on arrival that must be mapped to another one when history is read, per event."""


def score(
    world: IdentityWorld,
    events: Sequence[WorldEvent],
    canonicals: Canonicals,
    at_arrival: Canonicals | None,
    nobodys: Collection[str | int] = (),
) -> Score:
    """Score a contender; `nobodys`: canonicals that it declares to be no person's."""
    people = people_by_canonical(events, canonicals)
    wrong = {
        canonical: sum(counts.values()) - max(counts.values())
        for canonical, counts in people.items()
        if canonical not in nobodys
    }
    users = users_by_canonical(events, canonicals)
    owners, likeliest = main_owners(people), main_owners(people_by_canonical(events, same_nodes(events)))
    conflicts = conflicting_canonicals(events, canonicals)
    avoidable = [
        canonical
        for event, canonical, alike in zip(events, canonicals, same_nodes(events), strict=True)
        if canonical not in nobodys and owners[canonical] != event.person == likeliest[alike]
    ]
    whole = Counter(event.person for event in events)
    together = sum(pair_count(n) for counts in people.values() for n in counts.values())
    return Score(
        wrong=sum(wrong.values()) / len(events),
        unattributed=sum(canonical in nobodys for canonical in canonicals) / len(events),
        avoidable=len(avoidable) / len(events),
        given_away=sum(canonical in conflicts for canonical in avoidable) / len(events),
        wrong_known=sum(n for canonical, n in wrong.items() if canonical in users) / len(events),
        canonicals=sum(len(counts) for counts in people.values()) / len(whole),
        precision=_share(together, sum(pair_count(sum(counts.values())) for counts in people.values())),
        recall=_share(together, sum(pair_count(n) for n in whole.values())),
        merged_people=sum(len(counts) > 1 for counts in people.values()),
        merged_accounts=sum(sum(world.users[person] is not None for person in counts) > 1 for counts in people.values()),
        merged_households=sum(len({world.households[person] for person in counts}) > 1 for counts in people.values()),
        two_users=sum(len(carried) > 1 for carried in users.values()),
        **_staleness(canonicals, at_arrival),
    )


def bound(world: IdentityWorld, events: Sequence[WorldEvent]) -> Score:
    """Return the best value of each figure for methods that use nodes alone; no contender reaches all of them at once.

    Wrong: events with the same nodes cannot be told apart, so only the person with most of them can be right. Canonicals and
    recall: a person's events whose nodes are not connected, not even by events of that person alone, cannot be attributed to
    that person.
    """
    same = score(world, events, same_nodes(events), None)
    connected = score(world, events, person_components(events), None)
    return Score(
        wrong=same.wrong, unattributed=0.0, avoidable=0.0, given_away=0.0,
        wrong_known=same.wrong_known,
        canonicals=connected.canonicals, precision=1.0, recall=connected.recall,
        merged_people=0, merged_accounts=0, merged_households=0, two_users=0, stale=0.0, overrides=0.0,
    )  # fmt: skip


def person_components(events: Sequence[WorldEvent]) -> list[int]:
    """Return for each event its connected component in the graph of its person's events only."""
    unions = Unions()
    for event in events:
        first = unions.number((event.person, event.nodes[0]))
        for node in event.nodes[1:]:
            unions.join(first, unions.number((event.person, node)))
    return [unions.find(unions.number((event.person, event.nodes[0]))) for event in events]


def people_by_canonical(events: Sequence[WorldEvent], canonicals: Canonicals) -> Mapping[str | int, Counter[int]]:
    """Map each canonical to the number of events of each person."""
    people: defaultdict[str | int, Counter[int]] = defaultdict(Counter)
    for (canonical, person), n in Counter(zip(canonicals, (event.person for event in events), strict=True)).items():
        people[canonical][person] = n
    return people


def main_owners(people: Mapping[str | int, Counter[int]]) -> dict[str | int, int]:
    """Map each canonical to the person with most of its events; the first of several."""
    return {canonical: counts.most_common(1)[0][0] for canonical, counts in people.items()}


def users_by_canonical(events: Sequence[WorldEvent], canonicals: Canonicals) -> Mapping[str | int, set[str]]:
    """Map each canonical to the user ids that its events carry; only canonicals with any."""
    users: defaultdict[str | int, set[str]] = defaultdict(set)
    for event, canonical in zip(events, canonicals, strict=True):
        if event.nodes[0][0] == USER:
            users[canonical].update(node for node in event.nodes if node[0] == USER)
    return users


def conflicting_canonicals(events: Sequence[WorldEvent], canonicals: Canonicals) -> set[str | int]:
    """Return canonicals with a node that occurs in events of several users, there or elsewhere."""
    users: defaultdict[str, set[str]] = defaultdict(set)
    for event in events:
        if event.nodes[0][0] == USER:
            for node in event.nodes[1:]:
                users[node].add(event.nodes[0])
    shared = {node for node, carriers in users.items() if len(carriers) > 1}
    return {canonical for event, canonical in zip(events, canonicals, strict=True) if not shared.isdisjoint(event.nodes)}


def pair_count(n: int) -> int:
    """Return the number of unordered pairs of `n` things."""
    return n * (n - 1) // 2


def first_deliveries(events: Iterable[WorldEvent]) -> list[WorldEvent]:
    """Return events without duplicates, in order."""
    firsts: dict[str, WorldEvent] = {}
    for event in events:
        firsts.setdefault(event.event_id, event)
    return list(firsts.values())


def same_nodes(events: Sequence[WorldEvent]) -> list[str]:
    """Return for each event a name of its nodes: methods that use nodes alone cannot tell events of one name apart."""
    return [" ".join(event.nodes) for event in events]


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 1.0


def _staleness(canonicals: Canonicals, at_arrival: Canonicals | None) -> dict[str, float | None]:
    if at_arrival is None:
        return {"stale": None, "overrides": None}
    differ = [first for first, final in zip(at_arrival, canonicals, strict=True) if first != final]
    return {"stale": len(differ) / len(canonicals), "overrides": len(set(differ)) / len(canonicals)}

"""Finds nodes that link more than one person by all evidence, though no limit demoted them as events came.

Because it grew slowly, before the limit existed, or while counts were lost with a Redis. The limits are those of events
(`union_find.LIMITS`), applied to all evidence on `identity.links`; members that are linked with each other without the holder
count as one. A browser that drops its cookies weekly behind one login counts once, a constant's visitors count each. Pure.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from enum import Enum

from streams.identity.graph.limits import LIMITS, Limit
from streams.identity.graph.union_find import Nodes
from streams.identity.repair.split import connected_parts


class LimitRules(Enum):
    """Which limits are checked: all, those that count every member, or those that count independent members."""

    ALL, PLAIN, INDEPENDENT = range(3)


Members = Mapping[str, int]
"""Member of a holder -> first day of the evidence, since 1970."""
COUNTERS = 1 << 25
"""Counters of the sketch, a byte each."""
MOST_MEMBERS = 10_000
"""Members of one holder that are kept: far more than any limit."""


_LEAST = {
    holder: [(tier, min(limit.most for limit in limits)) for (of, tier), limits in LIMITS.items() if of == holder]
    for holder in {of for of, _ in LIMITS}
}


class DegreeSketch:
    """Counts with how many nodes of each tier a node came, in bounded memory: hashed counters, so some are too high."""

    def __init__(self, counters: int = COUNTERS) -> None:
        self._counts = bytearray(counters)

    def add(self, nodes: Nodes) -> None:
        """Count an identifier set for each of its nodes; one added twice counts twice."""
        for node in nodes:
            for tier, n in Counter(other[0] for other in nodes if other != node).items():
                at = self._counter(node, tier)
                self._counts[at] = min(self._counts[at] + n, 255)

    def may_exceed(self, node: str) -> bool:
        """Return whether the node may be over one of its limits."""
        return any(self._counts[self._counter(node, tier)] > most for tier, most in _LEAST[node[0]])

    def _counter(self, node: str, tier: str) -> int:
        return (int(node[1:9], 16) * 4 + int(tier)) % len(self._counts)


def collect(members: dict[str, dict[str, int]], nodes: Nodes, day: int, holders: Collection[str]) -> None:
    """Add an identifier set to the members of those of its nodes that are in `holders`."""
    for node in nodes:
        if node in holders:
            members_of_node = members.setdefault(node, {})
            for other in nodes:
                if other != node and (other in members_of_node or len(members_of_node) < MOST_MEMBERS):
                    members_of_node[other] = min(day, members_of_node.get(other, day))


def exceeded_limit(
    holder: str, members: Members, part_of: Mapping[str, int] | None = None, *, rules: LimitRules = LimitRules.ALL
) -> Limit | None:
    """Return a limit that the holder exceeds, or None.

    `part_of` numbers the parts of members that are linked now; members of one part count once. Without it every member counts.
    """
    firsts: defaultdict[str, dict[str | int, int]] = defaultdict(dict)
    for member, day in members.items():
        part = member if part_of is None else part_of.get(member)
        if part is not None:
            of_tier = firsts[member[0]]
            of_tier[part] = min(day, of_tier.get(part, day))
    for tier, first in firsts.items():
        days = sorted(first.values())
        for limit in LIMITS.get((holder[0], tier), ()):
            if rules in (LimitRules.ALL, LimitRules.INDEPENDENT if limit.independent else LimitRules.PLAIN) and any(
                later - earlier < limit.days for earlier, later in zip(days, days[limit.most :], strict=False)
            ):
                return limit
    return None


def find_suspects(members: Mapping[str, Members]) -> list[str]:
    """Return holders that exceed a limit if all of their members are independent."""
    return sorted(node for node, node_members in members.items() if exceeded_limit(node, node_members) is not None)


def joins_strangers(
    node: str, members: Members, linked: Collection[str], over: Collection[str], evidence: Collection[Nodes]
) -> bool:
    """Return whether a node exceeds a limit by independent members.

    `linked`: its component without the node; `evidence`: links within that; `over`: suspects. Suspects make no members
    dependent under plain limits, or a kiosk's device and its cookie would excuse each other. Under independent limits they do,
    or the user and the e-mail of somebody with three browsers would be found.
    """
    strict = _part_of(set(linked).difference(over), evidence)
    if exceeded_limit(node, members, strict, rules=LimitRules.PLAIN) is not None:
        return True
    return exceeded_limit(node, members, _part_of(linked, evidence), rules=LimitRules.INDEPENDENT) is not None


def _part_of(linked: Collection[str], evidence: Collection[Nodes]) -> dict[str, int]:
    return {member: n for n, part in enumerate(connected_parts(linked, evidence)) for member in part}

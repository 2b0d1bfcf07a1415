"""Ids that were demoted lately, taken out of their components: what was linked by nothing but them is set free.

A demotion is quick and local: the id links nothing from then on, and what hangs under it stays. This is the thorough half, for
many ids at once: the evidence is read once.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from infra.errors import Retryable
from infra.settings import Settings
from schemas.codec import decode
from schemas.registry import Registry
from streams.identity.evidence import CONFLICTS
from streams.identity.nodes import Alias
from streams.identity.rules import ERASED, Nodes
from streams.identity.split import SPLIT, Plan
from streams.identity.splitting import Journal, Log, Said, SplitStore, prepare, read_tree, split
from streams.runtime.follow import read_partition, topic_partitions

Gather = Callable[[Collection[str]], Iterable[Nodes]]
"""Nodes of all components -> the evidence that links two of them."""


class Linked(Retryable):
    """More was linked than the evidence was read for."""


def demoted(settings: Settings, since_ms: int) -> list[str]:
    """Nodes that a conflict or a limit demoted since then (milliseconds UTC). Retryable."""
    registry, found = Registry(settings.contracts), dict[str, None]()
    for partition in topic_partitions(settings, CONFLICTS):
        for records in read_partition(settings, CONFLICTS, partition, since_ms):
            said = (decode(registry, value)[1] for _, value in records if value is not None)
            found.update((record["node"], None) for record in said if record["rule"] != SPLIT)
    return list(found)


def tidy(
    store: SplitStore, nodes: Sequence[str], gather: Gather, alias: Alias, log: Callable[[str], Log]
) -> Iterator[tuple[str, Journal | None]]:
    """Each node that was taken out, and what has been done for it; None where workers were linking it: the next run does it.

    Done already is done again, which changes nothing. Retryable.
    """
    alive, said = _read(store, nodes, gather)
    for node in alive:
        try:
            yield node, split(store, node, said, alias, log(node))
        except Linked:
            yield node, None


def planned(store: SplitStore, nodes: Sequence[str], gather: Gather, alias: Alias) -> Iterator[tuple[str, Plan]]:
    """What `tidy` would begin with."""
    alive, said = _read(store, nodes, gather)
    for node in alive:
        yield node, prepare(store, node, said, alias)


def _read(store: SplitStore, nodes: Sequence[str], gather: Gather) -> tuple[list[str], Said]:
    """Those that were not erased, and what the evidence says of all that is linked to them now."""
    alive, known = list[str](), set[str]()
    for node in nodes:
        slots = read_tree(store, node).slots
        slot = slots[node]
        if slot is None or slot.state != ERASED:
            alive.append(node)
            known.update(slots)
    return alive, said_among(gather(known) if alive else (), known)


def said_among(evidence: Iterable[Nodes], known: Collection[str]) -> Said:
    """Evidence that was read for these nodes; asked for others it raises Linked."""
    by_node: defaultdict[str, list[Nodes]] = defaultdict(list)
    for combination in evidence:
        for node in combination:
            by_node[node].append(combination)

    def said(nodes: Collection[str]) -> Iterable[Nodes]:
        wanted = set(nodes)
        if not wanted.issubset(known):
            raise Linked("workers are linking these ids")
        found = {combination for node in wanted for combination in by_node[node]}
        return sorted(combination for combination in found if len(wanted.intersection(combination)) > 1)

    return said

"""What the desk reaches: graph, consent ledger, warehouse and topics; and what there is of a person."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from consumers.privacy import topics
from consumers.privacy.topics import LINKS, MERGES, REQUESTS, STATE, PersonRecord
from consumers.warehouse import erasing as rows
from consumers.warehouse.store import Store
from infra.settings import Settings
from schemas.registry import Registry
from streams.consent.ledger.store import RedisStateStore
from streams.identity.graph.redis_store import RedisGraphStore
from streams.identity.nodes import Alias, NodeKeys
from streams.identity.repair import erasing as graph
from streams.identity.repair.erasing import Members
from streams.runtime.follow import topic_partitions

SLOTS, SETS, VIEW = "redis.slots", "redis.sets", "redis.consent"


class PersonTraces(NamedTuple):
    """What names a person in long-kept topics."""

    held: Mapping[str, Sequence[PersonRecord]]
    scopes: Sequence[str]
    """Regulation and site of all states."""
    epochs: Mapping[str, int]
    """Epochs of the slots of the nodes of these records."""
    met: tuple[str, ...]
    """Nodes that hers came with in one event."""
    logged: bool
    """Whether `identity.merges` names her at all, be it to say that she is erased."""


@dataclass(frozen=True)
class PrivacyContext:
    """Addresses opened; nothing is asked before it is needed."""

    settings: Settings
    graph: RedisGraphStore
    states: RedisStateStore
    warehouse: Store
    alias: Alias

    @cached_property
    def registry(self) -> Registry:
        """Contracts."""
        return Registry(self.settings.contracts)

    @cached_property
    def keys(self) -> NodeKeys:
        """Of pseudonyms."""
        return NodeKeys.of(self.settings)

    def search(self, who: Members, until: int) -> PersonTraces:
        """Read the long-kept topics. Retryable."""
        found, scopes = topics.find(self.settings, who.nodes)
        for topic, time in ((STATE, "changed_ts"), (REQUESTS, "requested_ts")):
            found[topic] = [one for one in found[topic] if one.record[time] <= until]
        nodes = sorted({one.record["node"] for one in found[MERGES]})
        epochs = graph.epochs(self.graph, nodes)
        hers, logged = frozenset(who.nodes), bool(nodes)
        found[MERGES] = [one for one in found[MERGES] if graph.tells(one.record, hers, epochs)]
        met = sorted({node for one in found[LINKS] for node in one.record["nodes"]} - hers)
        return PersonTraces(found, scopes, epochs, tuple(met), logged)

    def left(self, who: Members, until: int, traces: PersonTraces) -> dict[str, int]:
        """Place -> how many slots, keys, records and rows there are of a person. Retryable."""
        found = {SLOTS: graph.unsuppressed(self.graph, who)}
        found[SETS] = self.graph.holding(who.nodes, graph.holders(self.graph, who, traces.met))
        found[VIEW] = sum(len(keys) for _, keys in self.view(who, until, traces))
        found |= {topic: len(held) for topic, held in traces.held.items()}
        person = rows.ErasedPerson(*who, until=until)
        return found | {f"clickhouse.{table}": n for table, n in rows.counts(self.warehouse, person).items()}

    def view(self, who: Members, until: int, traces: PersonTraces) -> list[tuple[int, list[str]]]:
        """Partition and keys of states of hers in the view. Retryable."""
        keys = [f"{scope}|{node}" for scope in traces.scopes for node in who.nodes]
        return [(at, self.states.keys_until(at, keys, until)) for at in topic_partitions(self.settings, STATE)]


__all__ = ["SLOTS", "PersonTraces", "PrivacyContext"]

"""The stores that privacy commands use, and what they hold of a person."""

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
from streams.identity.repair.erasing import Members, find_all_members
from streams.runtime.follow import topic_partitions

SLOTS, SETS, VIEW = "redis.slots", "redis.sets", "redis.consent"


class PersonTraces(NamedTuple):
    """What long-kept topics hold of a person."""

    records: Mapping[str, Sequence[PersonRecord]]
    scopes: Sequence[str]
    """Regulation and site of all consent states."""
    epochs: Mapping[str, int]
    """Node of these records -> epoch of its slot."""
    neighbours: tuple[str, ...]
    """Other nodes that evidence links with the person's."""
    logged: bool
    """Whether `identity.merges` names the person at all, if only as erased."""


@dataclass(frozen=True)
class PrivacyContext:
    """Open clients; they connect when they are first used."""

    settings: Settings
    graph: RedisGraphStore
    states: RedisStateStore
    warehouse: Store
    alias: Alias

    @cached_property
    def registry(self) -> Registry:
        """Registry of the contracts."""
        return Registry(self.settings.contracts)

    @cached_property
    def keys(self) -> NodeKeys:
        """Keys of pseudonyms."""
        return NodeKeys.of(self.settings)

    def members(self, names: Sequence[str]) -> Members:
        """The person of these nodes: all linked nodes and profiles. NotErasable for a shared node. Retryable."""
        return find_all_members(self.graph, names, self.alias, self.keys.later_nodes)

    def search(self, members: Members, until: int) -> PersonTraces:
        """Search the long-kept topics for records until `until` (milliseconds UTC). Retryable."""
        records, scopes = topics.find_records(self.settings, members.nodes)
        for topic, time in ((STATE, "changed_ts"), (REQUESTS, "requested_ts")):
            records[topic] = [record for record in records[topic] if record.record[time] <= until]
        nodes = sorted({record.record["node"] for record in records[MERGES]})
        epochs = graph.slot_epochs(self.graph, nodes)
        hers, logged = frozenset(members.nodes), bool(nodes)
        records[MERGES] = [record for record in records[MERGES] if graph.reveals_links(record.record, hers, epochs)]
        neighbours = sorted({node for record in records[LINKS] for node in record.record["nodes"]} - hers)
        return PersonTraces(records, scopes, epochs, tuple(neighbours), logged)

    def count_remaining(self, members: Members, until: int, traces: PersonTraces) -> dict[str, int]:
        """Place -> number of slots, keys, records and rows of a person. Retryable."""
        counts = {SLOTS: graph.count_unsuppressed(self.graph, members)}
        counts[SETS] = self.graph.count_memberships(members.nodes, graph.find_holders(self.graph, members, traces.neighbours))
        counts[VIEW] = sum(len(keys) for _, keys in self.view_keys(members, until, traces))
        counts |= {topic: len(records) for topic, records in traces.records.items()}
        person = rows.ErasedPerson(*members, until=until)
        return counts | {f"clickhouse.{table}": n for table, n in rows.count_rows(self.warehouse, person).items()}

    def view_keys(self, members: Members, until: int, traces: PersonTraces) -> list[tuple[int, list[str]]]:
        """(partition, keys) of the person's states in the Redis view. Retryable."""
        keys = [f"{scope}|{node}" for scope in traces.scopes for node in members.nodes]
        return [(at, self.states.keys_until(at, keys, until)) for at in topic_partitions(self.settings, STATE)]


__all__ = ["SLOTS", "PersonTraces", "PrivacyContext"]

"""Records that leave beside the events: link evidence and demoted nodes."""

import hashlib
from collections.abc import Iterable, Mapping
from functools import partial

from schemas.codec import Record
from schemas.fast.flat_encoder import flat_encoder
from schemas.registry import Registry
from streams.identity.graph.identifier_set import IdentifierSet, ResolvedColumns
from streams.identity.graph.union_find import Nodes, Write
from streams.identity.reading import IdentityEvent
from streams.runtime.stage import BY_KEY, Outcome

LINKS, CONFLICTS = "identity.links", "identity.conflicts"
SAME_EVENT = "same_event"


def link_id(nodes: Nodes) -> str:
    """Return 32 hexadecimal characters that depend on the nodes alone."""
    return hashlib.sha256("|".join(nodes).encode()).hexdigest()[:32]


def link_record(nodes: Nodes, event_id: str, evidence_ts: int, purposes: int) -> Record:
    """Build a record of `identity.links`, fields in the order of the contract."""
    return {
        "link_id": link_id(nodes), "nodes": nodes, "rule": SAME_EVENT, "event_id": event_id, "evidence_ts": evidence_ts,
        "consent_purposes": purposes,
    }  # fmt: skip


def conflict_record(write: Write, root: str, event_id: str, evidence_ts: int) -> Record:
    """Build a record of `identity.conflicts`; `root`: the root of the demoted node."""
    return {
        "node": write.node, "rule": write.rule, "kept": root, "refused": write.refused, "epoch": write.slot.epoch,
        "event_id": event_id, "evidence_ts": evidence_ts,
    }  # fmt: skip


class LinkEvidence:
    """Emits each identifier set once; again after a restart, after cache eviction, and after evidence was deleted."""

    def __init__(self, registry: Registry) -> None:
        contract = registry.latest(LINKS)
        self._encode = flat_encoder(contract.parsed, contract.header)
        self._since = 0
        """Generation, incremented when evidence was deleted: sets that were emitted before are emitted again."""

    def invalidate(self) -> None:
        """Emit all evidence again, because some of it was deleted."""
        self._since += 1

    def add(
        self,
        outcome: Outcome,
        events: Mapping[IdentifierSet, IdentityEvent],
        columns_by_set: Mapping[IdentifierSet, ResolvedColumns],
    ) -> None:
        """Emit evidence that is new, each set with its first event; remembered as emitted after the commit."""
        new = [identifiers for identifiers in events if identifiers.evidence_since < self._since]
        if not new:
            return
        out = outcome.out.setdefault(LINKS, [])
        for identifiers in new:
            live, event = columns_by_set[identifiers].live, events[identifiers]
            if len(live) > 1:
                record = link_record(live, event.event_id.decode(), event.collector_ts, event.purposes)
                out.append((record["link_id"].encode(), self._encode(*record.values()), BY_KEY))
        outcome.after_commit.append(partial(_remember, new, self._since))


def _remember(identifier_sets: Iterable[IdentifierSet], since: int) -> None:
    for identifiers in identifier_sets:
        identifiers.evidence_since = since

"""What goes out beside the events: the evidence of links, and nodes that were demoted."""

import hashlib
from collections.abc import Iterable, Mapping
from functools import partial

from schemas.codec import Record, flat_encoder
from schemas.registry import Registry
from streams.identity.graph.identifier_set import IdentifierSet, ResolvedColumns
from streams.identity.graph.union_find import Nodes, Write
from streams.identity.reading import IdentityEvent
from streams.runtime.stage import BY_KEY, Outcome

LINKS, CONFLICTS = "identity.links", "identity.conflicts"
SAME_EVENT = "same_event"


def link_id(nodes: Nodes) -> str:
    """32 hexadecimal characters, the same for the same nodes."""
    return hashlib.sha256("|".join(nodes).encode()).hexdigest()[:32]


def link_record(nodes: Nodes, event_id: str, evidence_ts: int, purposes: int) -> Record:
    """The record of `identity.links`, its fields in order."""
    return {
        "link_id": link_id(nodes), "nodes": nodes, "rule": SAME_EVENT, "event_id": event_id, "evidence_ts": evidence_ts,
        "consent_purposes": purposes,
    }  # fmt: skip


def conflict_record(write: Write, root: str, event_id: str, evidence_ts: int) -> Record:
    """The record of `identity.conflicts`; `kept`: root that the demoted node hung under."""
    return {
        "node": write.node, "rule": write.rule, "kept": root, "refused": write.refused, "epoch": write.slot.epoch,
        "event_id": event_id, "evidence_ts": evidence_ts,
    }  # fmt: skip


class LinkEvidence:
    """Says each combination of nodes once, and again when it was forgotten or struck out, or after a start."""

    def __init__(self, registry: Registry) -> None:
        contract = registry.latest(LINKS)
        self._encode = flat_encoder(contract.parsed, contract.header)
        self._since = 0
        """Grows when evidence was struck out: what was said before may be missing."""

    def invalidate(self) -> None:
        """Some of what was said is no longer there."""
        self._since += 1

    def add(
        self,
        outcome: Outcome,
        events: Mapping[IdentifierSet, IdentityEvent],
        columns_by_set: Mapping[IdentifierSet, ResolvedColumns],
    ) -> None:
        """Put what is new among these, each with its first event, out, and remember it once that is committed."""
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


def _remember(combinations: Iterable[IdentifierSet], since: int) -> None:
    for identifiers in combinations:
        identifiers.evidence_since = since

"""Refusals that a node remembers, so that nodes linked later receive them too. Pure.

They only grow: the newest counts for each site, regulation and purpose, so two memories merge in any order, and a replay
changes nothing. An entry is pending until its signal is committed: whoever reads a pending one signals it again, so that a
crash between the graph and the commit loses none.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from schemas.codec import Record

MOST_REFUSALS = 512
"""Of one node, far more than a person has; the oldest are dropped."""


class Scope(NamedTuple):
    """What a refusal applies to."""

    site: str
    """Or a group of sites; empty = all."""
    regulation: str
    """opt-in or opt-out; empty = both."""
    purpose: str
    """Empty = all."""


class Refusal(NamedTuple):
    """One refusal; the larger of two counts."""

    withdrawn_ts: int
    """When the visitor refused, milliseconds UTC; a newer grant of the receiving node still counts."""
    received_ts: int
    """When the consent room received it, milliseconds UTC."""
    evidence: str
    """Hash of the signals it was derived from."""


class RememberedRefusal(NamedTuple):
    """A refusal as a node remembers it."""

    refusal: Refusal
    signalled: bool
    """Whether the consent room is known to have it for this node."""


Refusals = Mapping[Scope, RememberedRefusal]
NONE: Refusals = {}


def refusals_of(revocation: Mapping[str, Any]) -> dict[Scope, RememberedRefusal]:
    """Return what a record of `consent.revocations` makes its subject remember; the consent room knows of it already."""
    # As in the consent room, a refusal without a time was made when it arrived.
    withdrawn_ts = revocation["withdrawn_ts"] or revocation["received_ts"]
    refusal = Refusal(withdrawn_ts, revocation["received_ts"], revocation["evidence"])
    scopes = (Scope(revocation["site"], revocation["regulation"], purpose) for purpose in revocation["purposes"] or [""])
    return {scope: RememberedRefusal(refusal, True) for scope in scopes}


def newest_refusals(memories: Iterable[Refusals]) -> dict[Scope, Refusal]:
    """Return the newest refusal of each scope."""
    union: dict[Scope, Refusal] = {}
    for memory in memories:
        for scope, (refusal, _) in memory.items():
            current = union.get(scope)
            if current is None or refusal > current:
                union[scope] = refusal
    return union


def missing_refusals(memory: Refusals, refusals: Mapping[Scope, Refusal]) -> dict[Scope, RememberedRefusal]:
    """Return what a node lacks of these, or has only in an older form; pending."""
    missing = (
        (scope, refusal) for scope, refusal in refusals.items() if scope not in memory or memory[scope].refusal < refusal
    )
    return {scope: RememberedRefusal(refusal, False) for scope, refusal in missing}


def merge_refusals(memory: Refusals, new: Refusals) -> Refusals:
    """Merge, bounded; returns `memory` itself where nothing is new. A pending refusal stays pending."""
    news = {scope: entry for scope, entry in new.items() if scope not in memory or memory[scope].refusal < entry.refusal}
    return _bounded({**memory, **news}) if news else memory


def confirm_signalled(memory: Refusals, signalled: Refusals) -> Refusals:
    """Mark those that were signalled; what was replaced or dropped meanwhile stays as it is."""
    same = (scope for scope, entry in signalled.items() if scope in memory and memory[scope] == (entry.refusal, False))
    marked = {scope: RememberedRefusal(memory[scope].refusal, True) for scope in same}
    return {**memory, **marked} if marked else memory


def _bounded(memories: Refusals) -> Refusals:
    if len(memories) <= MOST_REFUSALS:
        return memories
    oldest_last = sorted(memories.items(), key=lambda item: (item[1].refusal, item[0]), reverse=True)
    return dict(oldest_last[:MOST_REFUSALS])


def to_text(memories: Refusals) -> str:
    """Serialise for Redis; equal content gives equal text."""
    rows = [[*scope, *refusal, int(signalled)] for scope, (refusal, signalled) in sorted(memories.items())]
    return json.dumps(rows, separators=(",", ":"))


def from_text(text: bytes | None) -> dict[Scope, RememberedRefusal]:
    """Parse what `to_text` wrote; None gives no refusals."""
    rows = json.loads(text) if text else []
    return {Scope(*row[:3]): RememberedRefusal(Refusal(*row[3:6]), bool(row[6])) for row in rows}


def refusal_signals(node: str, refusals: Mapping[Scope, Refusal]) -> list[Record]:
    """Return the records of `consent.signals` for a node: one for each set of purposes refused together."""
    together: dict[tuple[str, str, Refusal], list[str]] = {}
    for (site, regulation, purpose), refusal in sorted(refusals.items()):
        together.setdefault((site, regulation, refusal), []).append(purpose)
    return [
        {
            "subject": node, "site": site, "regulation": regulation, "kind": "withdrawal", "signals": {},
            "purposes": [] if "" in purposes else purposes, "chosen_ts": refusal.withdrawn_ts,
            "received_ts": refusal.received_ts, "via": "linked", "evidence": refusal.evidence,
        }
        for (site, regulation, refusal), purposes in together.items()
    ]  # fmt: skip

"""Refusals that a node of the graph remembers, so that whoever is linked to it later gets them too. Pure.

They only grow: of one site, regulation and purpose the newest counts, so that two memories merge in any order, and a replay
changes nothing. Like a slot, an entry is pending until the consent room is known to have it: whoever meets a pending one
signals it again, so that a crash between the graph and the commit loses none.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from schemas.codec import Record

MOST_REFUSALS = 512
"""Of one node. No person has so many; the oldest ones go."""


class Scope(NamedTuple):
    """What a refusal is about."""

    site: str
    """Or a group of sites; empty = all."""
    regulation: str
    """opt-in or opt-out; empty = both."""
    purpose: str
    """Empty = all."""


class Refusal(NamedTuple):
    """One refusal. Of two the larger one counts."""

    withdrawn_ts: int
    """When the visitor refused, milliseconds UTC: a grant that is newer still counts where this is handed over."""
    received_ts: int
    """When the consent room had it, milliseconds UTC."""
    evidence: str
    """Hash of the signals that said so."""


class RememberedRefusal(NamedTuple):
    """A refusal as a node remembers it."""

    refusal: Refusal
    signalled: bool
    """Whether the consent room is known to have it for this node."""


Refusals = Mapping[Scope, RememberedRefusal]
NONE: Refusals = {}


def refusals_of(revocation: Mapping[str, Any]) -> dict[Scope, RememberedRefusal]:
    """What a record of `consent.revocations` makes its subject remember. It comes from the consent room, which so has it."""
    # A refusal whose time is unknown was made when it arrived, as the consent room has it.
    withdrawn_ts = revocation["withdrawn_ts"] or revocation["received_ts"]
    refusal = Refusal(withdrawn_ts, revocation["received_ts"], revocation["evidence"])
    scopes = (Scope(revocation["site"], revocation["regulation"], purpose) for purpose in revocation["purposes"] or [""])
    return {scope: RememberedRefusal(refusal, True) for scope in scopes}


def newest_refusals(memories: Iterable[Refusals]) -> dict[Scope, Refusal]:
    """Of each scope, the refusal that counts."""
    union: dict[Scope, Refusal] = {}
    for memory in memories:
        for scope, (refusal, _) in memory.items():
            current = union.get(scope)
            if current is None or refusal > current:
                union[scope] = refusal
    return union


def missing_refusals(memory: Refusals, refusals: Mapping[Scope, Refusal]) -> dict[Scope, RememberedRefusal]:
    """What a node does not remember of these, or only in an older form; pending."""
    missing = (
        (scope, refusal) for scope, refusal in refusals.items() if scope not in memory or memory[scope].refusal < refusal
    )
    return {scope: RememberedRefusal(refusal, False) for scope, refusal in missing}


def merge_refusals(memory: Refusals, new: Refusals) -> Refusals:
    """Both as one, bounded; `held` itself where it knows all of `new`. A pending refusal stays pending: see `confirmed`."""
    news = {scope: entry for scope, entry in new.items() if scope not in memory or memory[scope].refusal < entry.refusal}
    return _bounded({**memory, **news}) if news else memory


def confirm_signalled(memory: Refusals, signalled: Refusals) -> Refusals:
    """`held` with those marked that were signalled; what was replaced or forgotten meanwhile stays as it is."""
    same = (scope for scope, entry in signalled.items() if scope in memory and memory[scope] == (entry.refusal, False))
    marked = {scope: RememberedRefusal(memory[scope].refusal, True) for scope in same}
    return {**memory, **marked} if marked else memory


def _bounded(memories: Refusals) -> Refusals:
    if len(memories) <= MOST_REFUSALS:
        return memories
    oldest_last = sorted(memories.items(), key=lambda item: (item[1].refusal, item[0]), reverse=True)
    return dict(oldest_last[:MOST_REFUSALS])


def to_text(memories: Refusals) -> str:
    """As Redis keeps them: one spelling for the same content."""
    rows = [[*scope, *refusal, int(signalled)] for scope, (refusal, signalled) in sorted(memories.items())]
    return json.dumps(rows, separators=(",", ":"))


def from_text(text: bytes | None) -> dict[Scope, RememberedRefusal]:
    """What `to_text` wrote; nothing where there is nothing."""
    rows = json.loads(text) if text else []
    return {Scope(*row[:3]): RememberedRefusal(Refusal(*row[3:6]), bool(row[6])) for row in rows}


def refusal_signals(node: str, refusals: Mapping[Scope, Refusal]) -> list[Record]:
    """The records of `consent.signals` that say these of a node: one for what was refused together."""
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

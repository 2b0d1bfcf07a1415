"""Records of one layer counted against the ledger, a few bytes per event."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from infra.ops.simulator.ledger import ABSENT, ANONYMISED, RESOLVED, LedgerIndex
from infra.ops.simulator.truth import ANALYTICS, MARKETING, PERSONALIZATION

NEEDS = {"an": ANALYTICS, "mk": MARKETING, "pz": PERSONALIZATION}
"""Kind of marker -> purpose that its data need after the consent stage. Other kinds are never allowed there."""


class Sighting(NamedTuple):
    """One record or row of a layer."""

    event_id: str
    event_name: str
    outcome: str = ""
    """Consent outcome; empty before the consent stage."""
    mask: int = 0
    profile: str = ""
    state: str = ""
    """Identity state: resolved, unresolved or anonymous; empty before the identity stage."""
    heartbeat: bool = False
    marks: frozenset[tuple[str, int]] | set[tuple[str, int]] = frozenset()
    """Markers of this run in its bytes."""
    place: tuple[int, int] = (-1, -1)
    """Partition and offset."""


@dataclass
class Tally:
    """One layer's sightings."""

    expected: LedgerIndex
    anonymous_ids: Mapping[str, int] = field(default_factory=dict)
    """Ids of this run's anonymised events after the consent stage -> copies."""
    copies: bytearray = field(init=False)
    """Copies per event, up to 255."""
    anonymised: Counter[str] = field(default_factory=Counter)
    """Anonymised records of this run, by their new ids."""
    forbidden: Counter[str] = field(default_factory=Counter)
    """Description -> number of records or fields that must not exist."""
    unexplained: Counter[str] = field(default_factory=Counter)
    """Description -> number of records that the ledger does not explain."""
    leaks: set[int] = field(default_factory=set)
    """Events that showed more than was granted."""
    shortfalls: set[int] = field(default_factory=set)
    """Events that lost more than was refused."""
    profiles: dict[int, set[str]] = field(default_factory=dict)
    """Account -> profile ids of its events."""

    def __post_init__(self) -> None:
        self.copies = bytearray(len(self.expected.fates))

    def count(self, n: int) -> None:
        """Count a copy of event `n`."""
        if self.copies[n] < 255:
            self.copies[n] += 1

    def add_raw(self, sighting: Sighting, lawful: tuple[int, ...]) -> None:
        """Add a record from before the consent stage. `lawful`: outcomes that may occur there. Clear identifiers may not."""
        n = self.expected.number(sighting.event_id)
        self._check_clear_identifiers(sighting)
        if n is None:
            return
        if self.expected.fate(n) in lawful:
            self.count(n)
        else:
            self._add_unexplained(n)

    def add_consented(self, sighting: Sighting) -> None:
        """Add a record from after the consent stage, whose data must be granted."""
        n = self.expected.number(sighting.event_id)
        self._check_markers(sighting)
        if n is None:
            if sighting.event_id in self.anonymous_ids:
                self.anonymised[sighting.event_id] += 1
            return
        fate = self.expected.fate(n)
        if fate == ANONYMISED:
            self.forbidden["the event id of an anonymised event"] += 1
            self.leaks.add(n)
        elif fate != RESOLVED:
            self._add_unexplained(n)
        else:
            self.count(n)
            self._check_outcome(n, sighting)
            self._add_profile(n, sighting)

    def _add_unexplained(self, n: int) -> None:
        description = (
            "event that the ledger does not have" if self.expected.fate(n) == ABSENT else "event that should not be here"
        )
        self.unexplained[description] += 1

    def _check_clear_identifiers(self, sighting: Sighting) -> None:
        for kind, _ in sighting.marks:
            if kind == "cl":
                self.forbidden["clear identifier"] += 1

    def _check_markers(self, sighting: Sighting) -> None:
        for kind, n in sighting.marks:
            if kind not in NEEDS:
                self.forbidden["clear identifier" if kind == "cl" else "bytes of a dead letter"] += 1
            elif self.expected.fate(n) == ABSENT or not self.expected.masks[n] & NEEDS[kind]:
                self.forbidden[f"field of a denied purpose ({kind})"] += 1
                self.leaks.add(n)

    def _check_outcome(self, n: int, sighting: Sighting) -> None:
        mask = self.expected.masks[n]
        if sighting.mask & ~mask:
            self.forbidden["purpose that was not granted"] += 1
            self.leaks.add(n)
        elif sighting.mask != mask:
            self.unexplained["purpose that was granted and is missing"] += 1
            self.shortfalls.add(n)
        elif sighting.outcome != ("pass" if mask == ANALYTICS | MARKETING | PERSONALIZATION else "strip"):
            self.unexplained[f"outcome {sighting.outcome}"] += 1

    def _add_profile(self, n: int, sighting: Sighting) -> None:
        account = self.expected.accounts[n]
        if account >= 0 and sighting.state == "resolved":
            self.profiles.setdefault(account, set()).add(sighting.profile)

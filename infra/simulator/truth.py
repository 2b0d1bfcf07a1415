"""What must become of an event, worked out from what its visitor chose: a small table, and none of the consent stage's code."""

from dataclasses import dataclass
from typing import Literal

from infra.simulator.acts import Choice, Defect, Event

ANALYTICS, MARKETING, PERSONALIZATION = 1, 2, 4
ALL = ANALYTICS | MARKETING | PERSONALIZATION

OPT_OUT_REGIONS = frozenset({"US"})

FateName = Literal["resolved", "anonymised", "dead", "poison", "refused"]

# What the visitor's own words grant and deny; what they leave open, the region decides.
GRANTED: dict[Choice, int] = {
    Choice.CMP_ALL: ALL,
    Choice.CMP_NONE: 0,
    Choice.CMP_ANALYTICS: ANALYTICS,
    Choice.CMP_NO_MARKETING: ANALYTICS | PERSONALIZATION,
    Choice.MODE_ALL: ALL,
    Choice.MODE_NONE: 0,
    Choice.MODE_ANALYTICS: ANALYTICS,
    Choice.CONFLICT: ANALYTICS,
    Choice.GPC: ANALYTICS,
    Choice.SILENT: 0,
}


@dataclass(frozen=True, slots=True)
class Fate:
    """What must become of one event."""

    name: FateName
    outcome: str = ""
    """pass or strip, where resolved."""
    mask: int = 0
    """Granted purposes."""


def granted(choice: Choice, region: str) -> int:
    """Purposes that a visitor with this choice in this region has granted, as a bit mask."""
    if choice is Choice.SILENT:
        return ALL if region in OPT_OUT_REGIONS else 0
    return GRANTED[choice]


def fate(event: Event) -> Fate:
    """What must become of an event once the house has acknowledged it (or refused it)."""
    if event.defect in (Defect.WRONG_KEY, Defect.BROKEN_BODY):
        return Fate("refused")
    if event.defect is Defect.POISON:
        return Fate("poison")
    if event.defect is not Defect.NONE:
        return Fate("dead")
    mask = granted(event.device.choice, event.device.region)
    if not mask & ANALYTICS:
        return Fate("anonymised", "anonymise", mask)
    return Fate("resolved", "pass" if mask == ALL else "strip", mask)

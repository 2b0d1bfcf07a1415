"""Expected outcome of an event by its visitor's choice, independent of the consent stage's code.

`world/memory.py` adds what earlier choices of the visitor grant or refuse.
"""

from dataclasses import dataclass
from typing import Literal

from infra.ops.simulator.world.acts import DecisionRequest, Defect, SimulatedEvent, VisitorChoice

ANALYTICS, MARKETING, PERSONALIZATION = 1, 2, 4
ALL = ANALYTICS | MARKETING | PERSONALIZATION

OPT_OUT_REGIONS = frozenset({"US"})

FateName = Literal["resolved", "anonymised", "dead", "poison", "refused"]


@dataclass(frozen=True, slots=True)
class PurposeBits:
    """Purposes that a choice grants or refuses, as bits."""

    grants: int = 0
    denies: int = 0
    """Refused by purpose."""
    withholds: int = 0
    """Refused under an unmapped name: all purposes that no other name covers."""


# Purposes that the event's own signals grant and deny; memory and region decide the others.
SIGNALS: dict[VisitorChoice, PurposeBits] = {
    VisitorChoice.CMP_ALL: PurposeBits(ALL),
    VisitorChoice.CMP_NONE: PurposeBits(0, ALL),
    VisitorChoice.CMP_ANALYTICS: PurposeBits(ANALYTICS, MARKETING | PERSONALIZATION),
    VisitorChoice.CMP_NO_MARKETING: PurposeBits(ANALYTICS | PERSONALIZATION, MARKETING),
    VisitorChoice.MODE_ALL: PurposeBits(ALL),
    VisitorChoice.MODE_NONE: PurposeBits(0, ALL),
    VisitorChoice.MODE_ANALYTICS: PurposeBits(ANALYTICS, MARKETING | PERSONALIZATION),
    VisitorChoice.CONFLICT: PurposeBits(ANALYTICS, MARKETING | PERSONALIZATION),
    VisitorChoice.GPC: PurposeBits(ANALYTICS, MARKETING | PERSONALIZATION),
    VisitorChoice.SILENT: PurposeBits(),
    VisitorChoice.ONETRUST_NONE: PurposeBits(0, ALL),
    VisitorChoice.ONETRUST_NO_ADS: PurposeBits(ANALYTICS | PERSONALIZATION, MARKETING),
    VisitorChoice.UNMAPPED: PurposeBits(ANALYTICS, 0, MARKETING | PERSONALIZATION),
    VisitorChoice.TC_ALL: PurposeBits(ALL),
    VisitorChoice.TC_NONE: PurposeBits(0, ALL),
}


@dataclass(frozen=True, slots=True)
class ExpectedOutcome:
    """Expected outcome of one event."""

    name: FateName
    outcome: str = ""
    """pass or strip, where resolved."""
    mask: int = 0
    """Granted purposes."""


def default_purposes(region: str) -> int:
    """Return the purposes that are granted without signals in a region."""
    return ALL if region in OPT_OUT_REGIONS else 0


def granted_purposes(choice: VisitorChoice, region: str) -> int:
    """Return the purposes granted by a choice in a region, as bits, without earlier choices."""
    signals = SIGNALS[choice]
    return signals.grants | default_purposes(region) & ~(signals.denies | signals.withholds)


def expected_purposes(step: SimulatedEvent | DecisionRequest) -> int:
    """Return the purposes that must be granted to an event or a decision request, as bits."""
    return granted_purposes(step.device.choice, step.device.region) if step.granted is None else step.granted


def expected_outcome(event: SimulatedEvent) -> ExpectedOutcome:
    """Return the expected outcome of an event that was acknowledged or refused."""
    if event.defect is Defect.WRONG_KEY:
        return ExpectedOutcome("refused")
    if event.defect is Defect.POISON:
        return ExpectedOutcome("poison")
    if event.defect is not Defect.NONE:
        return ExpectedOutcome("dead")
    mask = expected_purposes(event)
    if not mask & ANALYTICS:
        return ExpectedOutcome("anonymised", "anonymise", mask)
    return ExpectedOutcome("resolved", "pass" if mask == ALL else "strip", mask)

"""Expected outcomes of events."""

from dataclasses import replace

import pytest

from infra.ops.simulator.truth import ExpectedOutcome, expected_outcome
from infra.ops.simulator.world.acts import Defect, Device, SimulatedEvent, SimulatedPerson, VisitorChoice

EVENT = SimulatedEvent(
    n=0,
    id="x",
    name="page_view",
    device=Device("c", "headwater", "DE", VisitorChoice.CMP_ALL, "agent"),
    person=SimulatedPerson("p", "a", "e", 1),
    login=False,
    age_ms=0,
    page="/",
    run="abcdefab",
)


@pytest.mark.parametrize(
    ("choice", "region", "expected"),
    [
        (VisitorChoice.CMP_ALL, "DE", ExpectedOutcome("resolved", "pass", 7)),
        (VisitorChoice.CMP_ALL, "", ExpectedOutcome("resolved", "pass", 7)),
        (VisitorChoice.CMP_NONE, "US", ExpectedOutcome("anonymised", "anonymise", 0)),
        (VisitorChoice.CMP_ANALYTICS, "US", ExpectedOutcome("resolved", "strip", 1)),
        (VisitorChoice.CMP_NO_MARKETING, "FR", ExpectedOutcome("resolved", "strip", 5)),
        (VisitorChoice.MODE_NONE, "GB", ExpectedOutcome("anonymised", "anonymise", 0)),
        (VisitorChoice.GPC, "US", ExpectedOutcome("resolved", "strip", 1)),
        (VisitorChoice.CONFLICT, "DE", ExpectedOutcome("resolved", "strip", 1)),
        (VisitorChoice.SILENT, "DE", ExpectedOutcome("anonymised", "anonymise", 0)),
        (VisitorChoice.SILENT, "", ExpectedOutcome("anonymised", "anonymise", 0)),
        (VisitorChoice.SILENT, "US", ExpectedOutcome("resolved", "pass", 7)),
        (VisitorChoice.ONETRUST_NONE, "US", ExpectedOutcome("anonymised", "anonymise", 0)),
        (VisitorChoice.ONETRUST_NO_ADS, "FR", ExpectedOutcome("resolved", "strip", 5)),
        (VisitorChoice.UNMAPPED, "US", ExpectedOutcome("resolved", "strip", 1)),
        (VisitorChoice.TC_NONE, "US", ExpectedOutcome("anonymised", "anonymise", 0)),
        (VisitorChoice.TC_ALL, "DE", ExpectedOutcome("resolved", "pass", 7)),
    ],
)
def test_choice_and_region_decide(choice: VisitorChoice, region: str, expected: ExpectedOutcome) -> None:
    """The event's own signals decide; without signals everything is denied except in opt-out regions."""
    event = replace(EVENT, device=replace(EVENT.device, choice=choice, region=region))
    assert expected_outcome(event) == expected


@pytest.mark.parametrize(
    ("defect", "name"),
    [
        (Defect.WRONG_KEY, "refused"),
        (Defect.BROKEN_BODY, "dead"),
        (Defect.NO_NAME, "dead"),
        (Defect.NOT_AN_OBJECT, "dead"),
        (Defect.POISON, "poison"),
    ],
)
def test_a_defect_decides_before_any_consent(defect: Defect, name: str) -> None:
    """What cannot be read is never judged by purpose."""
    assert expected_outcome(replace(EVENT, defect=defect)) == ExpectedOutcome(name)  # type: ignore[arg-type] # the table above holds fate names


def test_what_is_remembered_goes_before_what_an_event_says() -> None:
    """An event whose mask is known is judged by it."""
    assert expected_outcome(replace(EVENT, granted=5)) == ExpectedOutcome("resolved", "strip", 5)
    assert expected_outcome(replace(EVENT, granted=0)) == ExpectedOutcome("anonymised", "anonymise", 0)

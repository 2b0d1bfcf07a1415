"""What must become of an event."""

from dataclasses import replace

import pytest

from infra.ops.simulator.truth import Fate, fate
from infra.ops.simulator.world.acts import Choice, Defect, Device, Event, Person

EVENT = Event(
    n=0,
    id="x",
    name="page_view",
    device=Device("c", "headwater", "DE", Choice.CMP_ALL, "agent"),
    person=Person("p", "a", "e", 1),
    login=False,
    age_ms=0,
    page="/",
    run="abcdefab",
)


@pytest.mark.parametrize(
    ("choice", "region", "expected"),
    [
        (Choice.CMP_ALL, "DE", Fate("resolved", "pass", 7)),
        (Choice.CMP_ALL, "", Fate("resolved", "pass", 7)),
        (Choice.CMP_NONE, "US", Fate("anonymised", "anonymise", 0)),
        (Choice.CMP_ANALYTICS, "US", Fate("resolved", "strip", 1)),
        (Choice.CMP_NO_MARKETING, "FR", Fate("resolved", "strip", 5)),
        (Choice.MODE_NONE, "GB", Fate("anonymised", "anonymise", 0)),
        (Choice.GPC, "US", Fate("resolved", "strip", 1)),
        (Choice.CONFLICT, "DE", Fate("resolved", "strip", 1)),
        (Choice.SILENT, "DE", Fate("anonymised", "anonymise", 0)),
        (Choice.SILENT, "", Fate("anonymised", "anonymise", 0)),
        (Choice.SILENT, "US", Fate("resolved", "pass", 7)),
        (Choice.ONETRUST_NONE, "US", Fate("anonymised", "anonymise", 0)),
        (Choice.ONETRUST_NO_ADS, "FR", Fate("resolved", "strip", 5)),
        (Choice.UNMAPPED, "US", Fate("resolved", "strip", 1)),
        (Choice.TC_NONE, "US", Fate("anonymised", "anonymise", 0)),
        (Choice.TC_ALL, "DE", Fate("resolved", "pass", 7)),
    ],
)
def test_choice_and_region_decide(choice: Choice, region: str, expected: Fate) -> None:
    """Own words first; silence is a denial everywhere but where opt-out is the law."""
    event = replace(EVENT, device=replace(EVENT.device, choice=choice, region=region))
    assert fate(event) == expected


@pytest.mark.parametrize(
    ("defect", "name"),
    [
        (Defect.WRONG_KEY, "refused"),
        (Defect.BROKEN_BODY, "refused"),
        (Defect.NO_NAME, "dead"),
        (Defect.NOT_AN_OBJECT, "dead"),
        (Defect.POISON, "poison"),
    ],
)
def test_a_defect_decides_before_any_consent(defect: Defect, name: str) -> None:
    """What cannot be read is never judged by purpose."""
    assert fate(replace(EVENT, defect=defect)) == Fate(name)  # type: ignore[arg-type] # the table above holds fate names


def test_what_is_remembered_goes_before_what_an_event_says() -> None:
    """An event whose mask is known is judged by it."""
    assert fate(replace(EVENT, granted=5)) == Fate("resolved", "strip", 5)
    assert fate(replace(EVENT, granted=0)) == Fate("anonymised", "anonymise", 0)

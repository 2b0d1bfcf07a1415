"""Reconciliation of a small house in a real broker and a real ClickHouse, and of the same house with injected faults."""

from collections.abc import Callable, Iterator

import pytest

from infra.embedded.kafka import EmbeddedKafka
from infra.settings import load_settings
from infra.simulator import drain
from infra.simulator.compare import Row
from infra.simulator.ledger import read
from infra.simulator.marks import marker
from infra.simulator.survey import Survey
from infra.topics_app import apply
from tests.infra.simulator.small_house import DECISION, RUN, SmallHouse

Fault = Callable[[SmallHouse], object]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallHouse]:
    """A healthy house at rest, in a broker of its own: counts are compared over whole topics."""
    folder = tmp_path_factory.mktemp("house")
    with EmbeddedKafka(folder / "kafka") as kafka:
        settings = load_settings(kafka=kafka.address, state_dir=folder, secret="s" * 40, partitions=2)
        apply(settings)
        house = SmallHouse(settings, folder / "ledger.jsonl")
        house.furnish()
        house.settle()
        yield house


def verdict(house: SmallHouse) -> dict[str, Row]:
    """Every layer's row."""
    return {row.layer: row for row in Survey(house.settings, read(house.ledger)).rows()}


def test_a_healthy_house_drains_and_is_accounted_for(house: SmallHouse) -> None:
    """Nothing lost, doubled, forbidden or unexplained in any layer."""
    drain.wait(house.settings, 20, lambda _lags: None)
    assert [row for row in verdict(house).values() if not row.good] == []


def _leak(house: SmallHouse) -> None:
    """An event that kept its click id although only analytics is granted."""
    house.put("events.consented", {**house.consented(1), "click_ids": {"gclid": marker("mk", RUN, 1)}})


def _more_consent(house: SmallHouse) -> None:
    """An event that claims purposes nobody granted."""
    house.put("events.resolved", {**house.resolved(1), "consent_purposes": 7})


def _clear_account(house: SmallHouse) -> None:
    """A clear identifier that came through the door."""
    house.put("events.raw", {**house.raw(0), "page_url": f"/?mail={marker('cl', RUN, 3)}@mail.example"})


def _other_profile(house: SmallHouse) -> None:
    """A further profile of somebody who has one."""
    house.put("events.resolved", {**house.resolved(0), "profile_id": "2" + "cd" * 16})


def _second_exposure(house: SmallHouse) -> None:
    """A decision that counts twice."""
    told = {"decision_id": DECISION, "experiment": "hero-banner", "epoch": 1, "arm": "calm", "group": "bandit"}
    joined = {"kind": "exposure", "reward": 0.0, "event_id": "x", "decided_ts": house.now, "event_ts": house.now}
    house.put("bandit.outcomes", {**told, "propensity": 0.5, **joined})


def _count_too_much(house: SmallHouse) -> None:
    """A count without an event."""
    cell = {"stage": "consent", "minute": house.now, "source": "demo", "event_name": "page_view", "outcome": "pass"}
    house.put("stream.counts", {**cell, "dimensions": {}, "n": 1})


KAFKA_FAULTS: list[tuple[Fault, str, str]] = [
    (_count_too_much, "stream.counts", "doubled"),  # first: doubled and lost records move the counts too
    (lambda house: house.put("events.resolved", house.resolved(0)), "events.resolved", "doubled"),
    (lambda house: house.put("events.resolved", house.anonymous()), "events.resolved", "doubled"),
    (lambda house: house.put("events.consented", house.consented(0)), "events.consented", "doubled"),
    (_leak, "events.consented", "forbidden"),
    (_more_consent, "events.resolved", "forbidden"),
    (_clear_account, "events.raw", "forbidden"),
    (_other_profile, "profiles in events.resolved", "doubled"),
    (lambda house: house.put("events.raw", house.raw(6)), "events.raw", "unexplained"),
    (lambda house: house.put_letter("events.raw", 99, b"nobody knows me"), "events.dead", "unexplained"),
    (lambda house: house.put_letter("events.raw", 98, marker("dd", RUN, 5).encode()), "events.dead", "doubled"),
    (_second_exposure, "bandit.outcomes", "doubled"),
]


@pytest.mark.parametrize(("fault", "layer", "cell"), KAFKA_FAULTS)
def test_a_fault_in_a_topic_is_found_in_its_cell(house: SmallHouse, fault: Fault, layer: str, cell: str) -> None:
    """The cell grows by the one fault; the house stays spoilt for the tests after it."""
    before = getattr(verdict(house)[layer], cell)
    fault(house)
    after = verdict(house)[layer]
    assert getattr(after, cell) == before + 1
    assert not after.good

"""Searching the topics of a real broker for one event; nothing reads them, so events wait until groups commit."""

import time

import pytest

from consumers.warehouse.store import Store
from infra.ops.events.search import TopicSearcher
from infra.ops.events.story import verdict
from infra.ops.events.trace import EventTrace, EventTracer, TraceRequest
from infra.ops.simulator.marks import event_id
from infra.ops.topics import apply
from infra.settings import load_settings
from schemas.codec import encode
from streams.collector.masking.event_mask import event_id_pseudonym
from streams.identity.nodes import NodeKeys
from streams.runtime.dead_letters.dead_letter import DeadLetterCause, RecordPosition
from tests.infra.ops.simulator.small_house import RUN, SmallHouse

NOWHERE = "http://127.0.0.1:9"
"""An address at which no ClickHouse listens."""


@pytest.fixture(scope="module")
def house(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> SmallHouse:
    """Eight events on all topics, two copies of the last, and no ClickHouse."""
    folder = tmp_path_factory.mktemp("house")
    settings = load_settings(kafka=kafka, clickhouse=NOWHERE, state_dir=folder, secret="s" * 40, partitions=2)
    apply(settings)
    small_house = SmallHouse(settings, folder / "ledger.jsonl")
    small_house.populate()
    return small_house


def trace(house: SmallHouse, name: str, *, to_end: bool = False, decrypt: bool = False, since_s: int = 3_600) -> EventTrace:
    """Look an event up."""
    searcher = TopicSearcher(house.settings, lambda _topic, _offsets, _records: None)
    since = int((time.time() - since_s) * 1000)
    return EventTracer(house.settings, searcher, Store(house.settings, 5)).trace(TraceRequest(name, since, to_end, decrypt))


def test_an_event_is_found_on_every_topic_and_the_absent_warehouse_is_told(house: SmallHouse) -> None:
    """Without a commit of its room it waits; the records say where."""
    event = trace(house, event_id(RUN, 0))
    assert [len(event.copies(topic)) for topic in ("events.raw", "events.consented", "events.resolved")] == [1, 1, 1]
    assert "ClickHouse does not answer" in event.warehouse_error
    assert event.waiting == {"events.raw": None, "events.consented": None, "events.resolved": None}
    assert verdict(event)[0] == "waiting"


def test_all_copies_are_counted_where_the_topics_are_read_to_their_ends(house: SmallHouse) -> None:
    """And a search that ends early says so."""
    event = trace(house, event_id(RUN, 7), to_end=True)
    assert len(event.copies("events.raw")) == 2
    assert event.topics["events.raw"].to_end
    assert not trace(house, event_id(RUN, 0)).topics["events.raw"].to_end


def test_an_anonymised_event_is_followed_to_its_other_id(house: SmallHouse) -> None:
    """By the key of this installation."""
    event = trace(house, event_id(RUN, 2))
    assert [copy.record["event_id"] for copy in event.copies("events.consented")] == [house.anonymous_id]


def test_a_dead_letter_is_found_by_the_position_of_its_record(house: SmallHouse) -> None:
    """Closed, as long as nobody asks to decrypt it."""
    (copy,) = trace(house, event_id(RUN, 1)).copies("events.raw")
    cause = DeadLetterCause("UNDECODABLE", "", RecordPosition("events.raw", copy.partition, copy.offset))
    key, value, _ = house._gate.build(cause, None, b"the bytes", time.time())
    house._producer.produce("events.dead", value, key)
    assert house._producer.flush(20) == 0
    for decrypt in (False, True):
        letters = trace(house, event_id(RUN, 1), decrypt=decrypt).letters
        assert letters is not None
        assert [letter.record.get("value") for letter in letters.copies] == [b"the bytes" if decrypt else None]


def test_an_id_that_was_replaced_at_the_door_is_found(house: SmallHouse) -> None:
    """An address in an id becomes a pseudonym."""
    pseudonym = event_id_pseudonym("jo@shop.example", NodeKeys.of(house.settings).first["user"])
    house.put("events.raw", {**house.raw(0), "event_id": pseudonym})
    event = trace(house, "jo@shop.example")
    assert [copy.record["event_id"] for copy in event.copies("events.raw")] == [pseudonym]


def test_an_event_before_the_time_and_an_unknown_one_are_not_found(house: SmallHouse) -> None:
    """`--since` bounds the search."""
    assert not trace(house, event_id(RUN, 0), since_s=0).is_known
    unknown = trace(house, "never-sent")
    assert not unknown.is_known
    assert [search.copies for search in unknown.topics.values()] == [[], [], []]


def test_unreadable_records_that_hold_the_id_are_counted(house: SmallHouse) -> None:
    """Nothing is passed over silently."""
    value = encode(house.registry.latest("events.raw"), {**house.raw(0), "event_id": "torn-event"})
    house._producer.produce("events.raw", value[:-3], b"key")
    assert house._producer.flush(20) == 0
    search = trace(house, "torn-event").topics["events.raw"]
    assert (search.copies, search.unreadable) == ([], 1)

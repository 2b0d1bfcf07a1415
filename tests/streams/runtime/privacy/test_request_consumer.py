"""Which records a room answers, and from where it reads."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import confluent_kafka as ck
import pytest

from infra.clients.kafka import producer
from infra.clients.topic_ids import offset_metadata
from infra.ops.topics import apply
from infra.settings import load_settings
from infra.telemetry.metrics import Metrics
from schemas.codec import encode
from schemas.registry import Registry
from streams.runtime.privacy.request_consumer import ACKS, ERASURES, REQUESTS, PrivacyRequestConsumer, needs_answer
from tests.broker.copying import read_committed
from tests.broker.groups import commit_offsets


@pytest.mark.parametrize(
    ("topic", "request_", "expected"),
    [
        (REQUESTS, {"kind": "withdrawal"}, True),
        (REQUESTS, {"kind": "erasure"}, False),
        (ERASURES, {"state": "begun"}, False),
        (ERASURES, {"state": "asked"}, True),
    ],
)
def test_erasures_are_answered_where_the_ids_are(topic: str, request_: dict[str, str], expected: bool) -> None:
    """Withdrawals are answered on their topic; an erasure on its own, once the ids are marked in the graph."""
    assert needs_answer(topic, request_) is expected


def test_a_consumer_that_has_answered_everything_has_no_lag(kafka: str, tmp_path: Path) -> None:
    """Transaction markers follow the requests: the consumer commits past them too."""
    settings = load_settings(kafka=kafka, state_dir=tmp_path, secret="a room for a test, forty characters long....")
    apply(settings)
    registry, kafka_producer = Registry(settings.contracts), producer(settings, transactional_id="asking")
    kafka_producer.init_transactions(60)
    request = {
        "request_id": "ab" * 16, "kind": "withdrawal", "subject": "2" + "a" * 32, "site": "x", "nodes": [],
        "profiles": [], "purposes": [], "withdrawn_ts": 0, "requested_ts": 0, "deadline_ts": 0,
    }  # fmt: skip
    kafka_producer.begin_transaction()
    kafka_producer.produce(REQUESTS, encode(registry.latest(REQUESTS), request), b"k", 0)
    kafka_producer.commit_transaction(30)
    request_consumer = PrivacyRequestConsumer(settings, "warehouse", lambda _: "done", lambda _: "done", Metrics())
    request_consumer.start()
    reading = ck.Consumer({"bootstrap.servers": kafka, "group.id": "headwater.warehouse-privacy"})
    place, deadline = ck.TopicPartition(REQUESTS, 0), time.monotonic() + 60

    def offsets() -> tuple[int, int]:
        try:
            return reading.get_watermark_offsets(place, 20)[1], reading.committed([place], 20)[0].offset
        except ck.KafkaException:  # the group's coordinator is starting
            return 0, 0

    try:
        # A request and a marker, which a broker writes some time after the commit was answered.
        while offsets() != (2, 2):
            assert time.monotonic() < deadline, f"it stays behind: {offsets()}"
            time.sleep(0.1)
        assert len(read_committed(kafka, ACKS)) == 1
    finally:
        request_consumer.stop()
        reading.close()


def test_requests_of_a_topic_made_anew_are_all_answered(kafka: str, tmp_path: Path) -> None:
    """An offset that was committed for another topic of that name skips none of them."""
    settings = load_settings(kafka=kafka, state_dir=tmp_path, secret="a room for a test, forty characters long....")
    apply(settings)
    registry, kafka_producer = Registry(settings.contracts), producer(settings)
    request = {
        "kind": "withdrawal", "subject": "2" + "a" * 32, "site": "x", "nodes": [], "profiles": [], "purposes": [],
        "withdrawn_ts": 0, "requested_ts": 0, "deadline_ts": 0,
    }  # fmt: skip
    request_ids = {f"{n:032x}" for n in range(1_000, 1_006)}
    for request_id in sorted(request_ids):
        kafka_producer.produce(REQUESTS, encode(registry.latest(REQUESTS), request | {"request_id": request_id}), b"k", 0)
    assert kafka_producer.flush(20) == 0
    stale = [ck.TopicPartition(REQUESTS, 0, 4, offset_metadata("of-an-older-topic"))]
    consumer = ck.Consumer({"bootstrap.servers": kafka, "group.id": "headwater.decisions-privacy", "enable.auto.commit": False})
    commit_offsets(consumer, stale)
    consumer.close()
    answered, deadline = list[str](), time.monotonic() + 60

    def answer(request: Mapping[str, Any]) -> str:
        answered.append(request["request_id"])
        return "done"

    request_consumer = PrivacyRequestConsumer(settings, "decisions", answer, lambda _: "done", Metrics())
    request_consumer.start()
    try:
        while not request_ids.issubset(answered):
            assert time.monotonic() < deadline, f"answered: {sorted(answered)}"
            time.sleep(0.1)
    finally:
        request_consumer.stop()

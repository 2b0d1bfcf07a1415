"""Ids of topics, from a real broker."""

import contextlib
import time
from concurrent.futures import Future
from typing import cast

import confluent_kafka as ck
import pytest
from confluent_kafka.admin import AdminClient, NewTopic, TopicDescription

from infra.clients.kafka import admin
from infra.clients.topic_ids import TopicWatch, describe_ids, is_for_another_topic, offset_metadata, topic_ids
from infra.errors import Retryable
from infra.settings import Settings, load_settings

TOPICS = ("ids.first", "ids.second")


@pytest.fixture
def settings(kafka: str) -> Settings:
    """A broker with two topics."""
    settings = load_settings(kafka=kafka)
    create(settings, *(name for name in TOPICS if name not in topic_ids(settings, TOPICS)))
    return settings


def create(settings: Settings, *names: str) -> None:
    """Create topics, also where a deletion of theirs is still on its way, and wait until they can be described."""
    client, deadline = admin(settings), time.monotonic() + 30
    while missing := set(names) - topic_ids(settings, names).keys():
        assert time.monotonic() < deadline, "not created in time"
        for future in client.create_topics([NewTopic(name, 1, 1) for name in missing]).values():
            with contextlib.suppress(ck.KafkaException):  # its deletion goes on, or it is there and not described yet
                future.result(20)
        time.sleep(0.1)


def delete(settings: Settings, name: str) -> None:
    """Delete a topic and wait until it cannot be described."""
    client = admin(settings)
    client.delete_topics([name])[name].result(20)
    deadline = time.monotonic() + 30
    while topic_ids(settings, [name]):
        assert time.monotonic() < deadline, "not deleted in time"
        time.sleep(0.1)


def test_each_topic_has_an_id_that_stays(settings: Settings) -> None:
    """Every client gets the same id of 22 characters of base64, different for each topic."""
    ids = topic_ids(settings, TOPICS)
    assert sorted(ids) == sorted(TOPICS)
    assert len(set(ids.values())) == 2
    assert all(len(topic_id) == 22 for topic_id in ids.values())
    assert describe_ids(admin(settings), [*TOPICS, TOPICS[0]]) == ids


def test_a_topic_made_anew_has_another_id(settings: Settings) -> None:
    """A topic that was created again has another id; the other topic keeps its own."""
    before = topic_ids(settings, TOPICS)
    delete(settings, TOPICS[0])
    create(settings, TOPICS[0])
    after = topic_ids(settings, TOPICS)
    assert after[TOPICS[0]] != before[TOPICS[0]]
    assert after[TOPICS[1]] == before[TOPICS[1]]


def test_a_missing_topic_is_left_out(settings: Settings) -> None:
    """Missing topics are omitted; no topics give an empty result."""
    assert topic_ids(settings, ["ids.never", TOPICS[1]]).keys() == {TOPICS[1]}
    assert topic_ids(settings, []) == {}


def test_a_broker_that_is_away_is_retryable() -> None:
    """An unreachable broker raises Retryable, and never gives an empty result."""
    with pytest.raises(Retryable, match="Kafka does not tell"):
        topic_ids(load_settings(kafka="127.0.0.1:9"), TOPICS, timeout_s=1.0)


class WithoutIds:
    """A real client that answers as brokers before Kafka 2.8 do: topics have no ids."""

    def __init__(self, client: AdminClient) -> None:
        self._client = client
        self.list_topics = client.list_topics

    def describe_topics(self, topics: ck.TopicCollection, **options: float) -> "dict[str, Future[TopicDescription]]":
        """As the client, with the id of all zeros that librdkafka has for a topic without one."""
        described: dict[str, Future[TopicDescription]] = self._client.describe_topics(topics, **options)
        for future in described.values():
            future.result(20).topic_id = ck.Uuid(0, 0)
        return described


def test_a_broker_without_ids_is_told_by_its_cluster(settings: Settings) -> None:
    """Without topic ids the cluster's id distinguishes topics of a new cluster."""
    client = admin(settings)
    cluster = client.list_topics(timeout=20).cluster_id
    ids = describe_ids(cast(AdminClient, WithoutIds(client)), TOPICS)
    assert ids == {name: f"{cluster}:{name}" for name in TOPICS}


def test_a_watch_notices_a_topic_made_anew(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The watch names the replaced topic; not while the topic is missing, and not before the first ids are known."""
    monkeypatch.setattr("infra.clients.topic_ids.CHECK_S", 0.0)
    unasked, watch = TopicWatch(settings, TOPICS), TopicWatch(settings, TOPICS)
    watch.ids_at_start()
    assert watch.find_replaced() is None
    delete(settings, TOPICS[1])
    assert watch.find_replaced() is None
    create(settings, TOPICS[1])
    assert watch.find_replaced() == TOPICS[1]
    assert unasked.find_replaced() is None


@pytest.mark.parametrize(
    ("metadata", "topic_id", "another"),
    [
        (offset_metadata("first"), "second", True),
        (offset_metadata("first"), "first", False),
        (offset_metadata(""), "second", False),
        (offset_metadata("first"), "", False),
        (None, "second", False),
        ("v1:3-9", "second", False),
    ],
)
def test_an_offset_is_anothers_only_where_both_ids_are_known(metadata: str | None, topic_id: str, another: bool) -> None:
    """Offsets without our metadata, of other programs or older versions, are accepted."""
    assert is_for_another_topic(metadata, topic_id) is another

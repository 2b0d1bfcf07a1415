"""Kafka's ids of topics. An offset means something only together with the id of its topic: a topic that is deleted and created
again, or of the same name in another cluster, counts from 0 again under another id (KIP-516).
"""

import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future

import confluent_kafka as ck
from confluent_kafka.admin import AdminClient, TopicDescription

from infra.clients.kafka import admin
from infra.errors import ConfigError, Retryable
from infra.settings import Settings

TIMEOUT_S = 10.0
CHECK_S = 5.0
"""How often those who read on and on look whether a topic is still the same."""
CHECK_TIMEOUT_S = 2.0
MARK = "topic:"
"""What the metadata of a committed offset begins with, before its topic's id."""
NO_ID = str(ck.Uuid(0, 0))
DENIED = {ck.KafkaError.TOPIC_AUTHORIZATION_FAILED, ck.KafkaError.CLUSTER_AUTHORIZATION_FAILED}


def topic_ids(settings: Settings, topics: Iterable[str], timeout_s: float = TIMEOUT_S) -> dict[str, str]:
    """`describe_ids` by an admin client of its own."""
    return describe_ids(admin(settings), topics, timeout_s)


def describe_ids(client: AdminClient, topics: Iterable[str], timeout_s: float = TIMEOUT_S) -> dict[str, str]:
    """Topic -> its id, 22 characters of base64 as Kafka's tools print it; `cluster_id:topic` where the broker keeps no ids.

    Topics that do not exist are left out. Retryable where Kafka does not answer, ConfigError where it refuses to.
    """
    names = sorted(set(topics))
    if not names:
        return {}
    try:
        described = client.describe_topics(ck.TopicCollection(names), request_timeout=timeout_s)
        ids = {name: topic_id for name, future in described.items() if (topic_id := _id_of(future, timeout_s)) is not None}
        if all(ids.values()):
            return ids
        cluster = client.list_topics(timeout=timeout_s).cluster_id
    except ck.KafkaException as error:
        reason = error.args[0]
        if reason.code() in DENIED:
            raise ConfigError(
                f"Kafka does not let this user describe topics ({reason.name()}): grant DESCRIBE on them"
            ) from error
        raise Retryable(f"Kafka does not tell the ids of topics: {reason.name()}") from error
    except TimeoutError as error:
        raise Retryable("Kafka does not tell the ids of topics in time") from error
    return {name: topic_id or f"{cluster}:{name}" for name, topic_id in ids.items()}


def _id_of(future: "Future[TopicDescription]", timeout_s: float) -> str | None:
    """An id; empty where the broker keeps none (older than Kafka 2.8), None where there is no such topic."""
    try:
        topic_id = future.result(timeout_s).topic_id
    except ck.KafkaException as error:
        if error.args[0].code() == ck.KafkaError.UNKNOWN_TOPIC_OR_PART:
            return None
        raise
    text = "" if topic_id is None else str(topic_id)
    return "" if text == NO_ID else text


def offset_metadata(topic_id: str) -> str:
    """What is committed beside an offset, so that it is not taken for one of another topic of the same name."""
    return f"{MARK}{topic_id}" if topic_id else ""


def is_of_another(metadata: str | None, topic_id: str) -> bool:
    """Whether an offset was committed for another topic than that of this id; False where either id is not known."""
    return bool(metadata and topic_id and metadata.startswith(MARK) and metadata != offset_metadata(topic_id))


def replaced_topics(known: Mapping[str, str], current: Mapping[str, str]) -> list[str]:
    """Topics that have another id now than the known one, sorted."""
    return sorted(topic for topic, topic_id in current.items() if known.get(topic, topic_id) != topic_id)


class TopicWatch:
    """Notices that topics were made anew while they are read.

    A consumer does not: it goes on at its old position in the new topic, and what lies before that is never read.
    """

    def __init__(self, settings: Settings, topics: Iterable[str]) -> None:
        self._client = admin(settings)
        self._topics = tuple(topics)
        self._ids: dict[str, str] | None = None
        self._checked = 0.0

    def ask(self) -> Mapping[str, str]:
        """Topic -> id, as it was when it was first asked for. Retryable while Kafka is away."""
        if self._ids is None:
            self._ids = describe_ids(self._client, self._topics)
            self._checked = time.monotonic()
        return self._ids

    def replaced(self) -> str | None:
        """A topic that has another id by now, looked for every `CHECK_S`. None also while Kafka is away, or a topic is gone."""
        known, now = self._ids, time.monotonic()
        if not known or now - self._checked < CHECK_S:
            return None
        self._checked = now
        try:
            ids = describe_ids(self._client, known, CHECK_TIMEOUT_S)
        except Retryable:
            return None
        return next(iter(replaced_topics(known, ids)), None)


__all__ = ["TopicWatch", "describe_ids", "is_of_another", "offset_metadata", "replaced_topics", "topic_ids"]

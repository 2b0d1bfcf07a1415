"""Kafka's topic ids (KIP-516). An offset is meaningful only with its topic's id: a topic that is deleted and created again, or
has the same name in another cluster, counts from 0 again under another id.
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
"""Seconds between checks of a running consumer that its topics are still the same."""
CHECK_TIMEOUT_S = 2.0
MARK = "topic:"
"""Prefix of the topic id in the metadata of a committed offset."""
NO_ID = str(ck.Uuid(0, 0))
DENIED = {ck.KafkaError.TOPIC_AUTHORIZATION_FAILED, ck.KafkaError.CLUSTER_AUTHORIZATION_FAILED}


def topic_ids(settings: Settings, topics: Iterable[str], timeout_s: float = TIMEOUT_S) -> dict[str, str]:
    """Call `describe_ids` with a new admin client."""
    return describe_ids(admin(settings), topics, timeout_s)


def describe_ids(client: AdminClient, topics: Iterable[str], timeout_s: float = TIMEOUT_S) -> dict[str, str]:
    """Return topic -> id, 22 characters of base64 as Kafka's tools print it; `cluster_id:topic` where the broker has no ids.

    Topics that do not exist are omitted. Retryable where Kafka does not answer, ConfigError where it denies access.
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
    """Return an id; empty where the broker has none (older than Kafka 2.8), None where there is no such topic."""
    try:
        topic_id = future.result(timeout_s).topic_id
    except ck.KafkaException as error:
        if error.args[0].code() == ck.KafkaError.UNKNOWN_TOPIC_OR_PART:
            return None
        raise
    text = "" if topic_id is None else str(topic_id)
    return "" if text == NO_ID else text


def offset_metadata(topic_id: str) -> str:
    """Return the metadata to commit with an offset, which identifies its topic among topics of the same name."""
    return f"{MARK}{topic_id}" if topic_id else ""


def is_for_another_topic(metadata: str | None, topic_id: str) -> bool:
    """Whether an offset was committed for a topic with another id; False where either id is unknown."""
    return bool(metadata and topic_id and metadata.startswith(MARK) and metadata != offset_metadata(topic_id))


def replaced_topics(former: Mapping[str, str], current: Mapping[str, str]) -> list[str]:
    """Topics whose current id differs from the former one, sorted."""
    return sorted(topic for topic, topic_id in current.items() if former.get(topic, topic_id) != topic_id)


class TopicWatch:
    """Detects topics that were deleted and created again while they are consumed.

    A consumer does not notice: it continues at its old position in the new topic and never reads the records before it.
    """

    def __init__(self, settings: Settings, topics: Iterable[str]) -> None:
        self._client = admin(settings)
        self._topics = tuple(topics)
        self._ids: dict[str, str] | None = None
        self._checked = 0.0

    def ids_at_start(self) -> Mapping[str, str]:
        """Return topic -> id as of the first call. Retryable while Kafka is unreachable."""
        if self._ids is None:
            self._ids = describe_ids(self._client, self._topics)
            self._checked = time.monotonic()
        return self._ids

    def find_replaced(self) -> str | None:
        """Return a topic whose id has changed, checked every `CHECK_S`. None also where Kafka or the topic is unavailable."""
        first_ids, now = self._ids, time.monotonic()
        if not first_ids or now - self._checked < CHECK_S:
            return None
        self._checked = now
        try:
            ids = describe_ids(self._client, first_ids, CHECK_TIMEOUT_S)
        except Retryable:
            return None
        return next(iter(replaced_topics(first_ids, ids)), None)


__all__ = ["TopicWatch", "describe_ids", "is_for_another_topic", "offset_metadata", "replaced_topics", "topic_ids"]

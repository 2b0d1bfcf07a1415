"""Kafka's ids of topics. An offset means something only together with the id of its topic: a topic that is deleted and created
again, or of the same name in another cluster, counts from 0 again under another id (KIP-516).
"""

from collections.abc import Iterable
from concurrent.futures import Future

import confluent_kafka as ck
from confluent_kafka.admin import AdminClient, TopicDescription

from infra.errors import ConfigError, Retryable
from infra.kafka import admin
from infra.settings import Settings

TIMEOUT_S = 10.0
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


__all__ = ["describe_ids", "topic_ids"]

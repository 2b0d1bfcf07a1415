"""Records the ids of topics in the table `kafka_topics`, with the time since when each is in use."""

from collections.abc import Iterable

from consumers.warehouse.schema import ddl
from consumers.warehouse.schema.tables import TABLES
from consumers.warehouse.store import Store
from consumers.warehouse.topic_partition import TopicPartition


def record_topics(store: Store, sources: Iterable[TopicPartition]) -> dict[str, int]:
    """Record new topic ids; return topic -> milliseconds UTC since when its dead letters belong to the present id. Retryable.

    The first id of a topic gets all dead letters, a later one those since the last row of the id before.
    """
    table = f"{ddl.quoted(store.database)}.kafka_topics"
    query = f"SELECT topic, topic_id, toUnixTimestamp64Milli(min(first_seen)) FROM {table} GROUP BY topic, topic_id"  # noqa: S608 - ours
    recorded = {(str(topic), str(topic_id)): int(first) for topic, topic_id, first in store.rows(query)}
    first_seen = {}
    for source in {source.topic: source for source in sources}.values():
        key = (source.topic, source.topic_id)
        if key not in recorded:
            recorded[key] = _last_row_of_another(store, source)
            store.command(
                f"INSERT INTO {table} (topic, topic_id, first_seen, met_at) "
                f"SELECT '{source.topic}', '{source.topic_id}', fromUnixTimestamp64Milli(toInt64({recorded[key]})), "
                "now64(3, 'UTC')"
            )
        first_seen[source.topic] = recorded[key]
    return first_seen


def _last_row_of_another(store: Store, source: TopicPartition) -> int:
    source.condition  # noqa: B018 - raises ValueError for a malformed topic id
    name = f"{ddl.quoted(store.database)}.{ddl.quoted(TABLES[source.topic].name)}"
    query = f"SELECT toUnixTimestamp64Milli(max(_loaded_at)) FROM {name} WHERE _topic_id NOT IN ('{source.topic_id}', '')"  # noqa: S608 - ours
    return int(store.rows(query)[0][0])

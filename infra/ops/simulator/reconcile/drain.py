"""Waits until every consumer group has an offset lag of 0."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import ConsumerGroupTopicPartitions, IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from infra.clients.kafka import admin
from infra.ops.simulator.reconcile.layers import records
from infra.settings import Settings
from schemas.registry import Registry
from streams.identity.graph.deferred import DEFERRED

TIMEOUT_S = 10.0
POLL_S = 0.5

ABSENT = (KafkaException, TimeoutError)
"""Errors of a restarting broker, which are retried. An old client may keep requesting leader epochs that the broker no longer
knows, so each retry uses a new one."""

Lags = Mapping[str, int]
"""Group -> unread records."""

# The topics of each group, in the order of the stream.
GROUPS: dict[str, tuple[str, ...]] = {
    "headwater.consent": ("events.raw", "consent.signals"),
    "headwater.identity": ("events.consented", "consent.revocations"),
    "headwater.bandit": ("events.resolved", "bandit.outcomes"),
    "headwater.warehouse": (
        "events.resolved",
        "events.dead",
        "stream.counts",
        "bandit.decisions",
        "bandit.outcomes",
        "consent.audit",
        "identity.merges",
    ),
}


# The groups that propagate a refusal to every identifier of its visitor.
REFUSAL_GROUPS = {group: GROUPS[group] for group in ("headwater.consent", "headwater.identity")}
VIEW_S = 2.0
"""Seconds for which workers cache states of identifiers on other partitions, and for which the Redis view may lag."""


class NotDrained(Exception):
    """The stream did not drain in time."""


def end_offsets(client: AdminClient, topic: str) -> dict[int, int]:
    """Return the end offset of each partition, including open transactions. Empty where there is no such topic."""
    listed = client.list_topics(timeout=TIMEOUT_S).topics.get(topic)
    if listed is None or listed.error is not None:
        return {}
    requests = {TopicPartition(topic, partition): OffsetSpec.latest() for partition in listed.partitions}
    futures = client.list_offsets(requests, isolation_level=IsolationLevel.READ_UNCOMMITTED, request_timeout=TIMEOUT_S)
    return {place.partition: future.result(TIMEOUT_S).offset for place, future in futures.items()}


def committed_offsets(client: AdminClient, group: str) -> dict[tuple[str, int], int]:
    """Return the committed offsets of a group."""
    request = [ConsumerGroupTopicPartitions(group)]
    answer: Any = client.list_consumer_group_offsets(request, request_timeout=TIMEOUT_S)[group].result(TIMEOUT_S)
    return {(place.topic, place.partition): place.offset for place in answer.topic_partitions or [] if place.offset >= 0}


Ends = Mapping[str, Mapping[int, int]]
"""Topic -> partition -> end offset."""


def topic_end_offsets(client: AdminClient, groups: Mapping[str, tuple[str, ...]]) -> Ends:
    """Return the end offsets of every topic that these groups read."""
    return {
        topic: end_offsets(client, topic) for topic in dict.fromkeys(topic for topics in groups.values() for topic in topics)
    }


def lags(client: AdminClient, groups: Mapping[str, tuple[str, ...]] = GROUPS) -> dict[str, int]:
    """Return the lag of each group. A topic without any committed offset counts only if it is the group's first."""
    end_by_topic = topic_end_offsets(client, groups)
    group_lags = {}
    for group, topics in groups.items():
        at = committed_offsets(client, group)
        counted = [topic for topic in topics if topic == topics[0] or any(place[0] == topic for place in at)]
        group_lags[group] = _behind(at, {topic: end_by_topic[topic] for topic in counted})
    return group_lags


def _behind(at: Mapping[tuple[str, int], int], end_by_topic: Ends) -> int:
    return sum(
        max(0, end - at.get((topic, partition), 0)) for topic, ends in end_by_topic.items() for partition, end in ends.items()
    )


def count_unlinked(settings: Settings) -> int:
    """Return the number of records that identity passed without links, and must still link."""
    due = {}
    for key, record in records(settings, Registry(settings.contracts), DEFERRED, 0):
        due[key] = record["end"] - record["first"]
    return sum(max(0, n) for n in due.values())


def wait_settled(settings: Settings, timeout_s: float, report_lags: Callable[[Lags], None]) -> None:
    """Return once all refusals are effective everywhere. NotDrained after `timeout_s`.

    Consent and identity write to each other's topics, so a lag of 0 of both does not prove that nothing is in flight. It does
    where no topic has grown since before the lags were measured: a group writes its results in the transaction in which it
    commits what it has read.
    """
    client = admin(settings)
    deadline = time.monotonic() + timeout_s
    before: Ends = {}
    while True:
        try:
            group_lags, before, unchanged = _observe_lags(client, before)
            if unchanged and not any(group_lags.values()):
                # Events that passed while the graph was unavailable are linked later, and share refusals only then.
                group_lags = {"headwater.identity": count_unlinked(settings)}
            trouble = ""
        except ABSENT as error:
            group_lags, before, unchanged = {}, {}, False
            client, trouble = admin(settings), _describe_trouble(settings, error)
        report_lags(group_lags)
        if unchanged and not any(group_lags.values()):
            break
        if time.monotonic() > deadline:
            raise NotDrained(_not_drained(timeout_s, trouble, group_lags))
        time.sleep(POLL_S)
    time.sleep(VIEW_S)


def _observe_lags(client: AdminClient, before: Ends) -> tuple[Lags, Ends, bool]:
    """Return the lags of REFUSAL_GROUPS, the end offsets of their topics, and whether these equal `before`."""
    end_by_topic = topic_end_offsets(client, REFUSAL_GROUPS)
    group_lags = {
        group: _behind(committed_offsets(client, group), {topic: end_by_topic[topic] for topic in topics})
        for group, topics in REFUSAL_GROUPS.items()
    }
    after = topic_end_offsets(client, REFUSAL_GROUPS)
    return group_lags, after, end_by_topic == after == before


def _describe_trouble(settings: Settings, error: Exception) -> str:
    return f"Kafka at {settings.kafka}: {error.args[0] if error.args else type(error).__name__}"


def _not_drained(timeout_s: float, trouble: str, group_lags: Lags) -> str:
    behind = ", ".join(f"{group} {lag}" for group, lag in group_lags.items() if lag)
    return f"not drained after {timeout_s:.0f} s: {trouble or behind or 'still moving'}"


def wait_drained(settings: Settings, timeout_s: float, report_lags: Callable[[Lags], None]) -> None:
    """Return once every group's lag was 0 twice in a row; call `report_lags` each time. NotDrained after `timeout_s`."""
    client = admin(settings)
    deadline = time.monotonic() + timeout_s
    idle_checks = 0
    group_lags: Lags = {}
    trouble = ""
    while idle_checks < 2:
        if time.monotonic() > deadline:
            raise NotDrained(_not_drained(timeout_s, trouble, group_lags))
        try:
            group_lags, trouble = lags(client), ""
        except ABSENT as error:
            group_lags, client, trouble = {}, admin(settings), _describe_trouble(settings, error)
        report_lags(group_lags)
        idle_checks = idle_checks + 1 if group_lags and not any(group_lags.values()) else 0
        time.sleep(POLL_S)

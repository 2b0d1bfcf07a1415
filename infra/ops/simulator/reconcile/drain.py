"""Waits until every consumer group has read all there is: offset lag to the last stable offset is 0."""

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
"""The broker may be starting again: that is what the time to wait is for. A client that was there before may go on asking for
leader epochs that the broker no longer knows, so the next look has a new one."""

Lags = Mapping[str, int]
"""Group -> records that it has not read yet."""

# What each group must have read. The order is the order of the walk.
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


# The way of a refusal: what it takes until every identifier of its visitor has it.
REFUSAL_GROUPS = {group: GROUPS[group] for group in ("headwater.consent", "headwater.identity")}
VIEW_S = 2.0
"""How long workers go on by what they have read of identifiers whose states others keep, seconds; and the view's writing."""


class NotDrained(Exception):
    """The stream did not come to rest in time."""


def end_offsets(client: AdminClient, topic: str) -> dict[int, int]:
    """End of each partition of a topic, with open transactions, which are still to come. Empty where there is no such topic."""
    listed = client.list_topics(timeout=TIMEOUT_S).topics.get(topic)
    if listed is None or listed.error is not None:
        return {}
    requests = {TopicPartition(topic, partition): OffsetSpec.latest() for partition in listed.partitions}
    futures = client.list_offsets(requests, isolation_level=IsolationLevel.READ_UNCOMMITTED, request_timeout=TIMEOUT_S)
    return {place.partition: future.result(TIMEOUT_S).offset for place, future in futures.items()}


def committed_offsets(client: AdminClient, group: str) -> dict[tuple[str, int], int]:
    """What a group has committed."""
    request = [ConsumerGroupTopicPartitions(group)]
    answer: Any = client.list_consumer_group_offsets(request, request_timeout=TIMEOUT_S)[group].result(TIMEOUT_S)
    return {(place.topic, place.partition): place.offset for place in answer.topic_partitions or [] if place.offset >= 0}


Ends = Mapping[str, Mapping[int, int]]
"""Topic -> end of each partition."""


def topic_end_offsets(client: AdminClient, groups: Mapping[str, tuple[str, ...]]) -> Ends:
    """Ends of every topic that these groups read."""
    return {
        topic: end_offsets(client, topic) for topic in dict.fromkeys(topic for topics in groups.values() for topic in topics)
    }


def lags(client: AdminClient, groups: Mapping[str, tuple[str, ...]] = GROUPS) -> dict[str, int]:
    """Lag of each group. A topic that a group has never committed anything of counts only if it is the group's first."""
    tops = topic_end_offsets(client, groups)
    group_lags = {}
    for group, topics in groups.items():
        at = committed_offsets(client, group)
        counted = [topic for topic in topics if topic == topics[0] or any(place[0] == topic for place in at)]
        group_lags[group] = _behind(at, {topic: tops[topic] for topic in counted})
    return group_lags


def _behind(at: Mapping[tuple[str, int], int], tops: Ends) -> int:
    return sum(max(0, end - at.get((topic, partition), 0)) for topic, ends in tops.items() for partition, end in ends.items())


def count_unlinked(settings: Settings) -> int:
    """Records that identity has let pass without their links, which are still to be made."""
    due = {}
    for key, record in records(settings, Registry(settings.contracts), DEFERRED, 0):
        due[key] = record["end"] - record["first"]
    return sum(max(0, n) for n in due.values())


def wait_settled(settings: Settings, timeout_s: float, tell: Callable[[Lags], None]) -> None:
    """Return once whatever visitors have refused holds wherever it counts. NotDrained after `timeout_s`.

    Consent and identity write to each other's topics, so lag 0 of both at one look does not say that nothing is on its way.
    Where both had read all that there was, and nothing was added since before that look, nothing is: what a group has read, it
    has answered in the same transaction.
    """
    client = admin(settings)
    deadline = time.monotonic() + timeout_s
    before: Ends = {}
    while True:
        try:
            group_lags, before, still = _observe_lags(client, before)
            if still and not any(group_lags.values()):
                # Events that passed while the graph was away are linked later, and only then get each other's refusals.
                group_lags = {"headwater.identity": count_unlinked(settings)}
            trouble = ""
        except ABSENT as error:
            group_lags, before, still = {}, {}, False
            client, trouble = admin(settings), _describe_trouble(settings, error)
        tell(group_lags)
        if still and not any(group_lags.values()):
            break
        if time.monotonic() > deadline:
            raise NotDrained(_not_drained(timeout_s, trouble, group_lags))
        time.sleep(POLL_S)
    time.sleep(VIEW_S)


def _observe_lags(client: AdminClient, before: Ends) -> tuple[Lags, Ends, bool]:
    """Lags of the groups that refusals pass; where their topics end; and whether nothing was added since `before`."""
    tops = topic_end_offsets(client, REFUSAL_GROUPS)
    group_lags = {
        group: _behind(committed_offsets(client, group), {topic: tops[topic] for topic in topics})
        for group, topics in REFUSAL_GROUPS.items()
    }
    after = topic_end_offsets(client, REFUSAL_GROUPS)
    return group_lags, after, tops == after == before


def _describe_trouble(settings: Settings, error: Exception) -> str:
    return f"Kafka at {settings.kafka}: {error.args[0] if error.args else type(error).__name__}"


def _not_drained(timeout_s: float, trouble: str, group_lags: Lags) -> str:
    behind = ", ".join(f"{group} {lag}" for group, lag in group_lags.items() if lag)
    return f"not drained after {timeout_s:.0f} s: {trouble or behind or 'still moving'}"


def wait_drained(settings: Settings, timeout_s: float, tell: Callable[[Lags], None]) -> None:
    """Return once every group's lag was 0 twice in a row; `tell` hears each look. NotDrained after `timeout_s`."""
    client = admin(settings)
    deadline = time.monotonic() + timeout_s
    rests = 0
    group_lags: Lags = {}
    trouble = ""
    while rests < 2:
        if time.monotonic() > deadline:
            raise NotDrained(_not_drained(timeout_s, trouble, group_lags))
        try:
            group_lags, trouble = lags(client), ""
        except ABSENT as error:
            group_lags, client, trouble = {}, admin(settings), _describe_trouble(settings, error)
        tell(group_lags)
        rests = rests + 1 if group_lags and not any(group_lags.values()) else 0
        time.sleep(POLL_S)

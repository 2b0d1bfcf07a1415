"""Reads from Kafka: groups, committed offsets, ends of partitions, and timestamps of single records. It never writes."""

import json
import time
from collections.abc import Iterable, Mapping
from typing import Any

import confluent_kafka as ck
from confluent_kafka.admin import OffsetSpec

from consumers.gauge.lag.reading import GaugePartition, GroupFacts, KafkaFacts, PartitionEnds
from infra.clients.kafka import admin, reader
from infra.clients.topic_ids import describe_ids
from infra.errors import Retryable
from infra.settings import Settings

GROUP = "headwater-gauge"  # never commits; the name lies outside the prefix of the watched groups
TIMEOUT_S = 8.0
MAX_WAITING = 300
"""Characters of a reason for waiting that are shown."""
REBALANCING = {
    state
    for name in ("PREPARING_REBALANCING", "COMPLETING_REBALANCING", "ASSIGNING", "RECONCILING")
    if (state := getattr(ck.ConsumerGroupState, name, None)) is not None
}


class Cluster:
    """Queries Kafka by one admin client and, for the timestamp of a record, by one consumer outside any group."""

    def __init__(self, settings: Settings, prefix: str = "headwater.") -> None:
        self._settings = settings
        self._prefix = prefix
        self._admin = admin(settings)
        self._consumer: Any = None
        self._last_group_ids: set[str] = set()

    def close(self) -> None:
        """Close the consumer."""
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    def fetch_facts(self, now: float) -> KafkaFacts:
        """Return groups, offsets and ends. Retryable where Kafka does not answer; a single silent partition is left out."""
        try:
            groups = self._fetch_groups()
            partitions = {partition for group in groups for partition in group.committed}
            # Ids before ends: when a topic is recreated in between, the next round discards what this one has learned.
            topic_ids = describe_ids(self._admin, {partition.topic for partition in partitions}, TIMEOUT_S)
            return KafkaFacts(now, self._fetch_ends(partitions), tuple(groups), topic_ids)
        except ck.KafkaException as error:
            raise Retryable(f"Kafka does not answer: {error.args[0].name()}") from error
        except TimeoutError as error:
            raise Retryable("Kafka does not answer in time") from error

    def _fetch_groups(self) -> list[GroupFacts]:
        listed = self._admin.list_consumer_groups(request_timeout=TIMEOUT_S).result(TIMEOUT_S)
        group_ids = {group.group_id for group in listed.valid if group.group_id.startswith(self._prefix)}
        if listed.errors:
            # Each broker lists its own groups, and one that is away is only an error here: the groups that it coordinated
            # are described by name, and an empty list means that no broker answered.
            group_ids |= self._last_group_ids
            if not listed.valid:
                # The entry may be a KafkaError, from which Python cannot raise.
                raise Retryable(f"Kafka does not answer: {listed.errors[0]}")
        self._last_group_ids = group_ids
        names = sorted(group_ids)
        if not names:
            return []
        described = self._admin.describe_consumer_groups(names, request_timeout=TIMEOUT_S)
        offsets = {
            # The call accepts one group only; the requests run concurrently.
            name: self._admin.list_consumer_group_offsets(
                [ck.ConsumerGroupTopicPartitions(name)], require_stable=False, request_timeout=TIMEOUT_S
            )[name]
            for name in names
        }
        metadata = self._admin.list_topics(timeout=TIMEOUT_S).topics
        return [_group_facts(name, described[name], offsets[name].result(TIMEOUT_S), metadata) for name in names]

    def _fetch_ends(self, partitions: Iterable[GaugePartition]) -> dict[GaugePartition, PartitionEnds]:
        tps = [ck.TopicPartition(*partition) for partition in sorted(partitions)]
        if not tps:
            return {}
        start = self._fetch_offsets(tps, OffsetSpec.earliest(), ck.IsolationLevel.READ_UNCOMMITTED)
        # Stable before high: a record that arrives in between looks blocked for one round, and never lost.
        stable = self._fetch_offsets(tps, OffsetSpec.latest(), ck.IsolationLevel.READ_COMMITTED)
        high = self._fetch_offsets(tps, OffsetSpec.latest(), ck.IsolationLevel.READ_UNCOMMITTED)
        return {
            partition: PartitionEnds(start[partition], stable[partition], high[partition])
            for partition in start
            if partition in stable and partition in high
        }

    def _fetch_offsets(
        self, tps: list[ck.TopicPartition], spec: OffsetSpec, isolation: ck.IsolationLevel
    ) -> dict[GaugePartition, int]:
        futures = self._admin.list_offsets(dict.fromkeys(tps, spec), isolation_level=isolation, request_timeout=TIMEOUT_S)
        offsets = {}
        for tp, future in futures.items():
            try:
                offsets[GaugePartition(tp.topic, tp.partition)] = int(future.result(TIMEOUT_S).offset)
            except ck.KafkaException:
                continue  # has no leader at the moment, or was just deleted
        if not offsets:
            raise TimeoutError
        return offsets

    def fetch_record_times(
        self,
        offsets: Iterable[tuple[GaugePartition, int]],
        starts: Mapping[GaugePartition, PartitionEnds],
        budget_s: float = 3.0,
        each_s: float = 1.0,
    ) -> dict[tuple[GaugePartition, int], int]:
        """Return the timestamp of the first committed record at or after each offset, milliseconds UTC, within the budget.

        For a deleted offset this is the oldest record there is. Offsets whose record cannot be read in time are left out.
        """
        deadline = time.monotonic() + budget_s
        times = {}
        for partition, offset in offsets:
            remaining_s = min(each_s, deadline - time.monotonic())
            if remaining_s <= 0:
                break
            written = self._fetch_record_time(partition, max(offset, starts[partition].start), remaining_s)
            if written is not None:
                times[partition, offset] = written
        return times

    def _fetch_record_time(self, partition: GaugePartition, offset: int, timeout_s: float) -> int | None:
        try:
            if self._consumer is None:
                self._consumer = reader(
                    self._settings,
                    GROUP,
                    auto_offset_reset="earliest",
                    enable_partition_eof="true",
                    queued_min_messages=1,
                    queued_max_messages_kbytes=1_024,
                    # Otherwise a full queue of one record pauses the partition for a second.
                    fetch_queue_backoff_ms=5,
                )
            self._consumer.assign([ck.TopicPartition(partition.topic, partition.partition, offset)])
            deadline = time.monotonic() + timeout_s
            while (remaining_s := deadline - time.monotonic()) > 0:
                message = self._consumer.poll(remaining_s)
                if message is None:
                    break
                if message.error() is None:
                    kind, written = message.timestamp()
                    return int(written) if kind != ck.TIMESTAMP_NOT_AVAILABLE else None
                if message.error().code() == ck.KafkaError._PARTITION_EOF:
                    break
        except ck.KafkaException:
            return None  # an unreadable record only makes its age less exact
        finally:
            if self._consumer is not None:
                self._consumer.unassign()
        return None


def _group_facts(name: str, described: Any, offsets: Any, metadata: Any) -> GroupFacts:
    committed: dict[GaugePartition, int | None] = {
        GaugePartition(tp.topic, tp.partition): tp.offset if tp.offset >= 0 else None
        for tp in offsets.topic_partitions
        if tp.error is None and tp.topic in metadata
    }
    waiting = {
        GaugePartition(tp.topic, tp.partition): text for tp in offsets.topic_partitions if (text := _waiting_for(tp.metadata))
    }
    members, rebalancing, assignment = None, False, frozenset[tuple[str, tuple[GaugePartition, ...]]]()
    try:
        description = described.result(TIMEOUT_S)
        members, rebalancing = len(description.members), description.state in REBALANCING
        assignment = frozenset(
            (
                member.member_id,
                tuple(sorted(GaugePartition(tp.topic, tp.partition) for tp in member.assignment.topic_partitions)),
            )
            for member in description.members
        )
    except ck.KafkaException:
        pass  # the coordinator is moving; the offsets are known all the same
    topics = {partition.topic for partition in committed} | {
        partition.topic for _, partitions in assignment for partition in partitions
    }
    for topic in topics & set(metadata):
        for partition in metadata[topic].partitions:
            committed.setdefault(GaugePartition(topic, partition), None)
    return GroupFacts(name, members, rebalancing, assignment, committed, waiting)


def _waiting_for(metadata: str | None) -> str:
    """Return the reason for waiting that a group put into its commit's metadata; empty where there is none."""
    try:
        waiting = json.loads(metadata or "{}").get("waiting", "")
    except (ValueError, AttributeError):
        return ""
    return waiting[:MAX_WAITING] if isinstance(waiting, str) else ""

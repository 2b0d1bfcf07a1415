"""A reading as Prometheus metrics, built anew for each scrape, so that a deleted group leaves no series behind."""

from collections.abc import Sequence

from prometheus_client import generate_latest

from consumers.gauge.lag.reading import LagReading
from infra.telemetry.metrics import Metrics
from streams.runtime.privacy.requests import PendingRequest


def exposition(reading: LagReading | None, pending: Sequence[PendingRequest] | None, now: float) -> bytes:
    """Return the text of `GET /metrics`. Without a reading it has no lag metrics, without `pending` no metrics of requests."""
    metrics = Metrics()
    if pending is not None:
        metrics.set("headwater_privacy_requests", len(pending), state="open")
        metrics.set("headwater_privacy_requests", sum(request.overdue(int(now * 1000)) for request in pending), state="overdue")
    if reading is not None:
        metrics.set("headwater_gauge_reading_age_seconds", max(0.0, now - reading.at))
        _partitions(reading, metrics)
        _groups(reading, metrics)
    return generate_latest(metrics.registry)


def _partitions(reading: LagReading, metrics: Metrics) -> None:
    for partition, ends in reading.ends.items():
        labels = {"topic": partition.topic, "partition": str(partition.partition)}
        metrics.set("kafka_partition_earliest_offset", ends.start, **labels)
        metrics.set("kafka_partition_latest_offset", ends.stable, **labels)
        metrics.set("headwater_partition_held_back", ends.high - ends.stable, **labels)


def _groups(reading: LagReading, metrics: Metrics) -> None:
    for group in reading.groups:
        for p in group.partitions:
            labels = {"group": group.group, "topic": p.topic, "partition": str(p.partition)}
            metrics.set("kafka_consumergroup_group_lag", p.lag, **labels)
            metrics.set("headwater_lag_state", 1, state=p.state.value, **labels)
            if p.time_lag_s is not None:
                metrics.set("kafka_consumergroup_group_lag_seconds", p.time_lag_s, **labels)
            if p.committed is not None:
                metrics.set("kafka_consumergroup_group_offset", p.committed, **labels)
        metrics.set("kafka_consumergroup_group_max_lag", max((p.lag for p in group.partitions), default=0), group=group.group)
        metrics.set("kafka_consumergroup_group_sum_lag", group.lag, group=group.group)
        if group.time_lag_s is not None:
            metrics.set("kafka_consumergroup_group_max_lag_seconds", group.time_lag_s, group=group.group)
        if group.members is not None:
            metrics.set("headwater_group_members", group.members, group=group.group)

"""Every metric of every process: its name, kind, help text and labels in one table."""

import threading
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

MetricName = Literal[
    # runtime: one worker process of a stage
    "headwater_records_total",  # records a stage has finished, by what became of them
    "headwater_batch_seconds",  # time a stage needs for one batch
    "headwater_commit_seconds",  # time of one Kafka transaction's end
    "headwater_dropped_total",  # lawful drops, by reason
    "headwater_dead_total",  # dead letters, by reason
    "headwater_retries_total",  # batches tried again because the world was away
    "headwater_waiting",  # 1 while a stage waits for the world, by what it waits for
    "headwater_halted",  # 1 once a room has stopped itself
    "headwater_cells_folded_total",  # events counted as `other` because a minute had too many cells
    "headwater_assigned_partitions",  # partitions this worker holds
    # collector
    "headwater_requests_total",  # requests by door and status
    "headwater_request_seconds",  # time to answer, by door
    "headwater_collected_total",  # events accepted, by protocol and source
    "headwater_refused_total",  # events or requests refused, by reason
    "headwater_spool_bytes",  # bytes waiting in the spool
    "headwater_masked_total",  # addresses masked at the door, by source and field
    # consent
    "headwater_policy_loads_total",  # changes of the policy file, by whether it was taken
    "headwater_consent_conflicts_total",  # events on which two signals disagree, by purpose
    "headwater_consent_lookups_total",  # subjects looked up in the ledger's view
    "headwater_consent_signals_total",  # events, by whether the same signals were read before (hit) or not (miss)
    "headwater_consent_unmapped_total",  # signals under names that nothing maps, by source and name
    "headwater_consent_gpp_unreadable_total",  # events with a GPP section that cannot be read, by its id
    # identity
    "headwater_identity_conflicts_total",  # nodes that were demoted: they cannot be one person's, by rule
    "headwater_identity_degraded",  # 1 while events pass unresolved because the graph is away
    "headwater_identity_deferred",  # records that passed so, and whose links are due
    "headwater_revocations_total",  # refusals expanded to linked ids, by whether all of them were
    "headwater_refusals_handed_over_total",  # ids that got refusals of what they were linked with
    "headwater_privacy_requests",  # privacy requests by state: open, overdue
    # warehouse
    "headwater_inserted_total",  # rows inserted, by table
    "headwater_insert_seconds",  # time of one insert
    "headwater_repaired_total",  # rows that a replayed intent found present or filled in
    "headwater_overrides",  # profile ids of events that belong to another profile today
    "headwater_overrides_runs_total",  # runs of the projection, by outcome: changed, unchanged, idle, failed
    "headwater_overrides_seconds",  # time of one run
    "headwater_squashed_rows_total",  # old rows whose profile id was rewritten
    "headwater_verified_records_total",  # records compared with their rows by the hourly verification
    "headwater_verification_wrong_rows",  # rows missing, doubled, unexpected or different, by topic, until they are repaired
    "headwater_verification_timestamp_seconds",  # when every partition had last been verified
    "headwater_verification_interval_seconds",  # how often that should be; 0 = never
    "headwater_view_failing",  # 1 while a user's materialised view fails and misses rows
    # decisions
    "headwater_decisions_total",  # decisions by experiment, group and reason
    "headwater_decision_seconds",  # time to answer
    "headwater_decisions_unlogged_total",  # decisions that could not be logged, by why
    # bandit
    "headwater_outcomes_total",  # exposures and rewards counted or not, by experiment and verdict
    "headwater_snapshots_total",  # snapshots by experiment: published, clipped or refused
    "headwater_reward_drift_total",  # changes of an arm's reward rate
    # upkeep
    "headwater_upkeep_late_seconds",  # how long a task has been due and was not done
    # gauge; names follow kafka-lag-exporter, so that existing dashboards work
    "kafka_consumergroup_group_lag",
    "kafka_consumergroup_group_lag_seconds",
    "kafka_consumergroup_group_max_lag_seconds",
    "kafka_consumergroup_group_max_lag",
    "kafka_consumergroup_group_sum_lag",
    "kafka_consumergroup_group_offset",
    "kafka_partition_earliest_offset",
    "kafka_partition_latest_offset",
    "headwater_lag_state",  # 1 for the state that a group is in on a partition
    "headwater_group_members",  # workers of a group
    "headwater_partition_held_back",  # records behind an open transaction
    "headwater_gauge_reading_age_seconds",  # how old the figures above are
]

TABLE: dict[MetricName, tuple[type[Counter] | type[Gauge] | type[Histogram], str, tuple[str, ...]]] = {
    "headwater_records_total": (Counter, "Records a stage has finished", ("stage", "outcome")),
    "headwater_batch_seconds": (Histogram, "Seconds a stage needs for one batch", ("stage",)),
    "headwater_commit_seconds": (Histogram, "Seconds of one commit", ("stage",)),
    "headwater_dropped_total": (Counter, "Lawful drops", ("stage", "reason")),
    "headwater_dead_total": (Counter, "Dead letters", ("stage", "reason")),
    "headwater_retries_total": (Counter, "Batches tried again because the world was away", ("stage",)),
    "headwater_waiting": (Gauge, "1 while a stage waits for a service, which may be unnamed", ("stage", "service")),
    "headwater_halted": (Gauge, "1 once a room has stopped itself", ("stage",)),
    "headwater_cells_folded_total": (Counter, "Events counted as `other`", ("stage",)),
    "headwater_assigned_partitions": (Gauge, "Partitions this worker holds", ("stage",)),
    "headwater_requests_total": (Counter, "HTTP requests", ("door", "status")),
    "headwater_request_seconds": (Histogram, "Seconds to answer", ("door",)),
    "headwater_collected_total": (Counter, "Events accepted", ("protocol", "source")),
    "headwater_refused_total": (Counter, "Events or requests refused", ("door", "reason")),
    "headwater_spool_bytes": (Gauge, "Bytes waiting in the spool", ()),
    "headwater_masked_total": (Counter, "Addresses masked at the door", ("source", "field")),
    "headwater_policy_loads_total": (Counter, "Changes of the consent policy file", ("result",)),
    "headwater_consent_conflicts_total": (Counter, "Events on which two consent signals disagree", ("purpose",)),
    "headwater_consent_lookups_total": (Counter, "Subjects looked up in the consent ledger's view", ()),
    "headwater_consent_signals_total": (Counter, "Events, by whether the same signals were read before", ("cache",)),
    "headwater_consent_unmapped_total": (Counter, "Consent signals under names that nothing maps", ("source", "name")),
    "headwater_consent_gpp_unreadable_total": (Counter, "Events with a GPP section that cannot be read", ("section",)),
    "headwater_identity_conflicts_total": (Counter, "Nodes that were demoted", ("rule",)),
    "headwater_identity_degraded": (Gauge, "1 while events pass unresolved", ()),
    "headwater_identity_deferred": (Gauge, "Records whose links are due", ()),
    "headwater_revocations_total": (Counter, "Refusals expanded to linked ids", ("whole",)),
    "headwater_refusals_handed_over_total": (Counter, "Ids that got refusals of what they were linked with", ()),
    "headwater_privacy_requests": (Gauge, "Privacy requests that not every room has answered", ("state",)),
    "headwater_inserted_total": (Counter, "Rows inserted", ("table",)),
    "headwater_insert_seconds": (Histogram, "Seconds of one insert", ("table",)),
    "headwater_repaired_total": (Counter, "Rows a replayed intent found or filled", ("table", "found")),
    "headwater_overrides": (Gauge, "Profile ids of events that belong to another profile today", ()),
    "headwater_overrides_runs_total": (Counter, "Runs of the projection of identity overrides", ("outcome",)),
    "headwater_overrides_seconds": (Histogram, "Seconds of one projection of identity overrides", ()),
    "headwater_squashed_rows_total": (Counter, "Old rows whose profile id was rewritten", ()),
    "headwater_verified_records_total": (Counter, "Records compared with their rows", ()),
    "headwater_verification_wrong_rows": (Gauge, "Rows that are not as Kafka's records", ("topic", "kind")),
    "headwater_verification_timestamp_seconds": (Gauge, "When every partition had last been verified, seconds UTC", ()),
    "headwater_verification_interval_seconds": (Gauge, "How often every partition should be verified", ()),
    "headwater_view_failing": (Gauge, "1 while a user's materialised view misses rows", ("view",)),
    "headwater_decisions_total": (Counter, "Decisions", ("experiment", "group", "reason")),
    "headwater_decision_seconds": (Histogram, "Seconds to answer a decision", ()),
    "headwater_decisions_unlogged_total": (Counter, "Decisions that could not be logged", ("reason",)),
    "headwater_outcomes_total": (Counter, "Exposures and rewards, counted or not", ("experiment", "verdict")),
    "headwater_snapshots_total": (Counter, "Snapshots published, clipped or refused", ("experiment", "outcome")),
    "headwater_reward_drift_total": (Counter, "Changes of an arm's reward rate", ("experiment", "arm")),
    "headwater_upkeep_late_seconds": (Gauge, "How long a task has been due and was not done", ("task",)),
    "kafka_consumergroup_group_lag": (Gauge, "Offset lag", ("group", "topic", "partition")),
    "kafka_consumergroup_group_lag_seconds": (Gauge, "Time lag", ("group", "topic", "partition")),
    "kafka_consumergroup_group_max_lag_seconds": (Gauge, "Largest time lag of a group", ("group",)),
    "kafka_consumergroup_group_offset": (Gauge, "Committed offset", ("group", "topic", "partition")),
    "kafka_partition_latest_offset": (Gauge, "Last stable offset", ("topic", "partition")),
    "kafka_partition_earliest_offset": (Gauge, "First offset still kept", ("topic", "partition")),
    "kafka_consumergroup_group_max_lag": (Gauge, "Largest offset lag of a group", ("group",)),
    "kafka_consumergroup_group_sum_lag": (Gauge, "Offset lag of a group, all partitions", ("group",)),
    "headwater_lag_state": (Gauge, "1 for the state of a group on a partition", ("group", "topic", "partition", "state")),
    "headwater_group_members": (Gauge, "Workers of a group", ("group",)),
    "headwater_partition_held_back": (Gauge, "Records behind an open transaction", ("topic", "partition")),
    "headwater_gauge_reading_age_seconds": (Gauge, "Age of the lag figures", ()),
}


class Metrics:
    """The metrics of one process, made on first use by any thread, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._metrics: dict[str, Counter | Gauge | Histogram] = {}
        self._creation_lock = threading.Lock()  # a registry refuses a second metric of the same name

    def serve(self, port: int, host: str) -> None:
        """Answer /metrics from a thread of its own; port 0 = nowhere. OSError where the port is taken."""
        if port:
            start_http_server(port, host, self.registry)

    def _get(self, name: MetricName) -> Counter | Gauge | Histogram:
        metric = self._metrics.get(name)
        if metric is None:
            with self._creation_lock:
                metric = self._metrics.get(name)
                if metric is None:
                    kind, text, labels = TABLE[name]
                    metric = self._metrics[name] = kind(name, text, labels, registry=self.registry)
        return metric

    def count(self, name: MetricName, amount: float = 1, /, **labels: str) -> None:
        """Add to a counter."""
        metric = self._get(name)
        assert isinstance(metric, Counter)  # noqa: S101 - TABLE and call disagree: our own fault, crash loudly
        (metric.labels(**labels) if labels else metric).inc(amount)

    def set(self, name: MetricName, value: float, **labels: str) -> None:
        """Set a gauge."""
        metric = self._get(name)
        assert isinstance(metric, Gauge)  # noqa: S101 - as above
        (metric.labels(**labels) if labels else metric).set(value)

    def observe(self, name: MetricName, seconds: float, **labels: str) -> None:
        """Record one duration in seconds."""
        metric = self._get(name)
        assert isinstance(metric, Histogram)  # noqa: S101 - as above
        (metric.labels(**labels) if labels else metric).observe(seconds)

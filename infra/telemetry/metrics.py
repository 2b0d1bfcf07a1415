"""Every metric of every process: its name, kind, help text and labels, each declared once.

The aliases are unions of literals, so that mypy refuses an undeclared name, and a gauge that is counted. Their annotations hold
help texts and labels.
"""

import os
import threading
from collections.abc import Mapping
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeAlias, TypeVar, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.multiprocess import MultiProcessCollector

SHARED_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable by which processes of one server share their metrics; read when prometheus_client is imported."""


class MetricSpec(NamedTuple):
    """Help text and labels of a metric."""

    text: str
    """Help text."""
    labels: tuple[str, ...]


def _spec(text: str, *labels: str) -> MetricSpec:
    return MetricSpec(text, labels)


CounterName: TypeAlias = (
    # runtime: one worker process of a stage
    Annotated[Literal["headwater_records_total"], _spec("Records a stage has finished", "stage", "outcome")]
    | Annotated[Literal["headwater_dropped_total"], _spec("Lawful drops", "stage", "reason")]
    | Annotated[Literal["headwater_dead_total"], _spec("Dead letters", "stage", "reason")]
    | Annotated[Literal["headwater_retries_total"], _spec("Batches tried again because the world was away", "stage")]
    | Annotated[Literal["headwater_cells_folded_total"], _spec("Events counted as `other`", "stage")]
    # collector
    | Annotated[Literal["headwater_requests_total"], _spec("HTTP requests", "door", "status")]
    | Annotated[Literal["headwater_collected_total"], _spec("Events accepted", "protocol", "source")]
    | Annotated[Literal["headwater_refused_total"], _spec("Events or requests refused", "door", "reason")]
    | Annotated[Literal["headwater_rate_limited_total"], _spec("Requests beyond a source's limit, answered 429", "source")]
    | Annotated[
        Literal["headwater_origin_unlisted_total"],
        _spec("Requests of pages whose origin --cors-origin does not list; the first 50 origins by name", "origin"),
    ]
    | Annotated[Literal["headwater_masked_total"], _spec("Addresses masked at the door", "source", "field")]
    | Annotated[
        Literal["headwater_problems_total"],
        _spec("Optional fields that did not fit, of accepted events", "source", "field", "tag_version"),
    ]
    | Annotated[Literal["headwater_id_cookies_total"], _spec("First-party id cookies: set, renewed or deleted", "outcome")]
    # consent
    | Annotated[Literal["headwater_policy_loads_total"], _spec("Changes of the consent policy file", "result")]
    | Annotated[Literal["headwater_consent_conflicts_total"], _spec("Events on which two consent signals disagree", "purpose")]
    | Annotated[Literal["headwater_consent_lookups_total"], _spec("Subjects looked up in the consent ledger's view")]
    | Annotated[
        Literal["headwater_consent_signals_total"], _spec("Events, by whether the same signals were read before", "cache")
    ]
    | Annotated[
        Literal["headwater_consent_unmapped_total"], _spec("Consent signals under names that nothing maps", "source", "name")
    ]
    | Annotated[
        Literal["headwater_consent_gpp_unreadable_total"], _spec("Events with a GPP section that cannot be read", "section")
    ]
    # identity
    | Annotated[Literal["headwater_identity_conflicts_total"], _spec("Nodes that were demoted", "rule")]
    | Annotated[Literal["headwater_revocations_total"], _spec("Refusals expanded to linked ids", "whole")]
    | Annotated[Literal["headwater_refusals_handed_over_total"], _spec("Ids that got refusals of what they were linked with")]
    # warehouse
    | Annotated[Literal["headwater_inserted_total"], _spec("Rows inserted", "table")]
    | Annotated[Literal["headwater_repaired_total"], _spec("Rows a replayed intent found or filled", "table", "found")]
    | Annotated[Literal["headwater_overrides_runs_total"], _spec("Runs of the projection of identity overrides", "outcome")]
    | Annotated[Literal["headwater_squashed_rows_total"], _spec("Old rows whose profile id was rewritten")]
    | Annotated[Literal["headwater_verified_records_total"], _spec("Records compared with their rows")]
    # decisions
    | Annotated[Literal["headwater_decisions_total"], _spec("Decisions", "experiment", "group", "reason")]
    | Annotated[Literal["headwater_decisions_unlogged_total"], _spec("Decisions that could not be logged", "reason")]
    # bandit
    | Annotated[Literal["headwater_outcomes_total"], _spec("Exposures and rewards, counted or not", "experiment", "verdict")]
    | Annotated[Literal["headwater_snapshots_total"], _spec("Snapshots published, clipped or refused", "experiment", "outcome")]
    | Annotated[Literal["headwater_reward_drift_total"], _spec("Changes of an arm's reward rate", "experiment", "arm")]
)
GaugeName: TypeAlias = (
    # runtime: one worker process of a stage
    Annotated[
        Literal["headwater_waiting"], _spec("1 while a stage waits for a service, which may be unnamed", "stage", "service")
    ]
    | Annotated[Literal["headwater_halted"], _spec("1 once a room has stopped itself", "stage")]
    | Annotated[Literal["headwater_assigned_partitions"], _spec("Partitions this worker holds", "stage")]
    # collector
    | Annotated[Literal["headwater_spool_bytes"], _spec("Bytes waiting in the spool")]
    # identity
    | Annotated[Literal["headwater_identity_degraded"], _spec("1 while events pass unresolved")]
    | Annotated[Literal["headwater_identity_deferred"], _spec("Records whose links are due")]
    | Annotated[Literal["headwater_privacy_requests"], _spec("Privacy requests that not every room has answered", "state")]
    # warehouse
    | Annotated[Literal["headwater_overrides"], _spec("Profile ids of events that belong to another profile today")]
    | Annotated[Literal["headwater_verification_wrong_rows"], _spec("Rows that are not as Kafka's records", "topic", "kind")]
    | Annotated[
        Literal["headwater_verification_timestamp_seconds"], _spec("When every partition had last been verified, seconds UTC")
    ]
    | Annotated[Literal["headwater_verification_interval_seconds"], _spec("How often every partition should be verified")]
    | Annotated[Literal["headwater_view_failing"], _spec("1 while a user's materialised view misses rows", "view")]
    # upkeep
    | Annotated[Literal["headwater_upkeep_late_seconds"], _spec("How long a task has been due and was not done", "task")]
    # gauge; names follow kafka-lag-exporter, so that existing dashboards work
    | Annotated[Literal["kafka_consumergroup_group_lag"], _spec("Offset lag", "group", "topic", "partition")]
    | Annotated[Literal["kafka_consumergroup_group_lag_seconds"], _spec("Time lag", "group", "topic", "partition")]
    | Annotated[Literal["kafka_consumergroup_group_max_lag_seconds"], _spec("Largest time lag of a group", "group")]
    | Annotated[Literal["kafka_consumergroup_group_max_lag"], _spec("Largest offset lag of a group", "group")]
    | Annotated[Literal["kafka_consumergroup_group_sum_lag"], _spec("Offset lag of a group, all partitions", "group")]
    | Annotated[Literal["kafka_consumergroup_group_offset"], _spec("Committed offset", "group", "topic", "partition")]
    | Annotated[Literal["kafka_partition_earliest_offset"], _spec("First offset still kept", "topic", "partition")]
    | Annotated[Literal["kafka_partition_latest_offset"], _spec("Last stable offset", "topic", "partition")]
    | Annotated[
        Literal["headwater_lag_state"],
        _spec("1 for the state of a group on a partition", "group", "topic", "partition", "state"),
    ]
    | Annotated[Literal["headwater_group_members"], _spec("Workers of a group", "group")]
    | Annotated[Literal["headwater_partition_held_back"], _spec("Records behind an open transaction", "topic", "partition")]
    | Annotated[Literal["headwater_gauge_reading_age_seconds"], _spec("Age of the lag figures")]
)
HistogramName: TypeAlias = (
    # runtime: one worker process of a stage
    Annotated[Literal["headwater_batch_seconds"], _spec("Seconds a stage needs for one batch", "stage")]
    | Annotated[Literal["headwater_commit_seconds"], _spec("Seconds of one commit", "stage")]
    # collector
    | Annotated[Literal["headwater_request_seconds"], _spec("Seconds to answer", "door")]
    # warehouse
    | Annotated[Literal["headwater_insert_seconds"], _spec("Seconds of one insert", "table")]
    | Annotated[Literal["headwater_overrides_seconds"], _spec("Seconds of one projection of identity overrides")]
    # decisions
    | Annotated[Literal["headwater_decision_seconds"], _spec("Seconds to answer a decision")]
)

M = TypeVar("M", Counter, Gauge, Histogram)


def declarations(names: object) -> dict[str, MetricSpec]:
    """Return what one of the aliases above declares, by name."""
    return {get_args(literal)[0]: spec for literal, spec in map(get_args, get_args(names))}


COUNTERS, GAUGES, HISTOGRAMS = declarations(CounterName), declarations(GaugeName), declarations(HistogramName)
LABELS = {name: spec.labels for specs in (COUNTERS, GAUGES, HISTOGRAMS) for name, spec in specs.items()}
"""Name -> labels, of every metric."""


class _MetricFamily(Generic[M]):
    """The metrics of one kind, created on first use by any thread."""

    def __init__(self, kind: type[M], specs: Mapping[str, MetricSpec], registry: CollectorRegistry, **options: str) -> None:
        self._kind: type[M] = kind
        self._options: dict[str, Any] = dict(options)
        self._specs = specs
        self._registry = registry
        self._metrics: dict[str, M] = {}
        self._creation_lock = threading.Lock()  # a registry refuses a second metric of the same name

    def get(self, name: str) -> M:
        """Return the metric of this name. KeyError where none of this kind is declared."""
        metric = self._metrics.get(name)
        if metric is None:
            with self._creation_lock:
                metric = self._metrics.get(name)
                if metric is None:
                    spec = self._specs[name]
                    metric = self._kind(name, spec.text, spec.labels, registry=self._registry, **self._options)
                    self._metrics[name] = metric
        return metric


class Metrics:
    """The metrics of one process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._counters = _MetricFamily(Counter, COUNTERS, self.registry)
        self._gauges = _MetricFamily(Gauge, GAUGES, self.registry, multiprocess_mode="livesum")
        self._histograms = _MetricFamily(Histogram, HISTOGRAMS, self.registry)

    @property
    def page_registry(self) -> CollectorRegistry:
        """The registry to publish: where several processes share a port, the sums over them."""
        if SHARED_FOLDER not in os.environ:
            return self.registry
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call] # publishes no types for it
        return registry

    def serve(self, port: int, host: str) -> None:
        """Answer /metrics in a thread; port 0 = not at all. OSError where the port is taken."""
        if port:
            start_http_server(port, host, self.registry)

    def count(self, name: CounterName, amount: float = 1, /, **labels: str) -> None:
        """Add to a counter."""
        metric = self._counters.get(name)
        (metric.labels(**labels) if labels else metric).inc(amount)

    def set(self, name: GaugeName, value: float, **labels: str) -> None:
        """Set a gauge."""
        metric = self._gauges.get(name)
        (metric.labels(**labels) if labels else metric).set(value)

    def observe(self, name: HistogramName, seconds: float, **labels: str) -> None:
        """Record one duration in seconds."""
        metric = self._histograms.get(name)
        (metric.labels(**labels) if labels else metric).observe(seconds)

"""The tables of the warehouse: their topics, sorting keys and retention."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """One table; its columns come from the contract of its topic."""

    topic: str
    name: str
    time: str
    """Column of the monthly partitions and of the TTL."""
    order_by: str
    keep_days: int
    few_values: frozenset[str] = frozenset()
    """Text columns with few distinct values (LowCardinality)."""


TABLES: dict[str, Table] = {
    table.topic: table
    for table in (
        Table(
            "events.resolved",
            "events",
            "collector_ts",
            "source, event_name, toStartOfHour(collector_ts), node",
            760,
            frozenset(
                {
                    "identity_state", "consent_outcome", "consent_reasons", "consent_policy", "event_name", "source", "site",
                    "region", "currency", "event_ts_source", "protocol", "tag_version", "device_class",
                }
            ),
        ),
        Table(
            "events.dead",
            "dead_letters",
            "dead_ts",
            "stage, reason, dead_ts",
            30,
            frozenset({"stage", "reason", "source_topic", "source", "key_day"}),
        ),
        Table(
            "stream.counts",
            "volume_1m",
            "minute",
            "stage, minute, source, event_name",
            400,
            frozenset({"stage", "source", "event_name", "outcome"}),
        ),
        Table(
            "bandit.decisions",
            "bandit_decisions",
            "decided_ts",
            "experiment, decided_ts",
            400,
            frozenset({"experiment", "arm", "group", "reason", "config_version"}),
        ),
        Table(
            "bandit.outcomes",
            "bandit_outcomes",
            "decided_ts",
            "experiment, decided_ts",
            400,
            frozenset({"experiment", "arm", "group", "kind"}),
        ),
        Table(
            "consent.audit",
            "consent_audit",
            "minute",
            "site, minute",
            1_100,
            frozenset({"site", "outcome", "policy", "kind", "form", "regulation", "controller", "platform", "method"}),
        ),
        Table(
            "consent.revocations",
            "consent_revocations",
            "received_ts",
            "subject, received_ts",
            1_100,
            frozenset({"site", "regulation"}),
        ),
        Table(
            "privacy.requests",
            "privacy_requests",
            "requested_ts",
            "request_id",
            1_100,
            frozenset({"kind", "site"}),
        ),
        Table("privacy.acks", "privacy_acks", "done_ts", "request_id, room", 1_100, frozenset({"room", "detail"})),
        Table("privacy.audit", "privacy_audit", "done_ts", "chain, seq", 1_100, frozenset({"form", "kind"})),
        Table("identity.merges", "identity_merges", "evidence_ts", "node, evidence_ts", 3_650),
        Table("identity.conflicts", "identity_conflicts", "evidence_ts", "node, evidence_ts", 400, frozenset({"rule"})),
    )
}  # fmt: skip

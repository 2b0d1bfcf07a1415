"""The table of topics: contract, key, partitions, retention. `headwater topics apply` applies it to Kafka."""

from dataclasses import dataclass
from typing import Literal

DAY_MS = 86_400_000
REPLAY_DAYS = 7
"""Retention of the event topics, days."""


@dataclass(frozen=True)
class Topic:
    """One topic. Its contract is `schemas/contracts/<name>.avsc`."""

    name: str
    key: str
    """Description of the record key."""
    retention_days: int | None
    """None = compacted."""
    spread: Literal["events", "one"] = "events"
    """`events`: the installation's number of partitions, so that equal keys are co-partitioned; `one`: a single partition."""
    replaced: bool = False
    """Compacted in addition to its retention: an erasure rewrites records."""

    @property
    def compacted(self) -> bool:
        """Whether newer records with the same key remove a record before its retention ends."""
        return self.replaced or self.retention_days is None

    def config(self) -> dict[str, str]:
        """Return Kafka's topic configuration."""
        # Limits grow along the stream (raw < consented < resolved < dead), so prepended columns never make a record too large.
        size = {"max.message.bytes": str(MAX_BYTES.get(self.name, 4_194_304))}
        if self.compacted:
            # A tombstone takes effect within a day, however little is written: Kafka's default has no limit.
            size |= {"min.cleanable.dirty.ratio": "0.1", "max.compaction.lag.ms": str(DAY_MS)}
            # Tombstones of erasures must exist for as long as older events can be replayed.
            size |= {"delete.retention.ms": str((REPLAY_DAYS + 1) * DAY_MS)}
        if self.retention_days is None:
            return {"cleanup.policy": "compact", **size}
        policy = "compact,delete" if self.replaced else "delete"
        return {"cleanup.policy": policy, "retention.ms": str(self.retention_days * DAY_MS), **size}


MAX_BYTES = {"events.raw": 1_048_576, "events.consented": 1_310_720, "events.resolved": 1_572_864, "events.dead": 4_194_304}

TOPICS: dict[str, Topic] = {
    topic.name: topic
    for topic in (
        Topic("events.raw", "subject: pseudonym of the strongest id at the door", REPLAY_DAYS),
        Topic("events.consented", "subject; random where anonymised", REPLAY_DAYS),
        Topic("events.resolved", "profile_id; random where anonymous", REPLAY_DAYS),
        Topic("events.dead", "source topic:partition:offset", 14),
        # A dead letter may outlive its 14 days by up to a week, until its segment rolls; the replay record must outlive it.
        Topic("events.replays", "topic id and partition of the letters", 30, "one"),
        Topic("stream.counts", "stage", 7, "one"),
        Topic("consent.signals", "subject", REPLAY_DAYS),
        Topic("consent.state", "regulation|site|subject, on the source's partition", None),
        Topic("consent.revocations", "subject", 30),
        Topic("consent.audit", "chain, on the source's partition", 30),
        Topic("consent.heads", "chain, on the source's partition", None),
        Topic("privacy.requests", "request", 400, replaced=True),
        Topic("privacy.acks", "request", 400),
        Topic("privacy.erasures", "request", None, "one"),
        Topic("privacy.audit", "chain", 1_100, "one"),
        Topic("identity.merges", "node", None),
        Topic("identity.links", "digest of the nodes", None),
        Topic("identity.conflicts", "node", 30),
        Topic("identity.deferred", "source topic:partition, on the source's partition", None),
        Topic("bandit.experiments", "experiment", None, "one"),
        Topic("bandit.decisions", "visitor; decision where there is none", 30),
        Topic("bandit.outcomes", "decision", 30),
        Topic("bandit.stats", "experiment|epoch|hour|group|arm|source partition, on the source's partition", None),
        Topic("bandit.units", "decision, on the source's partition", None),
        Topic("bandit.snapshots", "experiment", None, "one"),
    )
}

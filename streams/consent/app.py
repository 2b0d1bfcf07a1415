"""Builds the consent stage from settings: its policy file, its key, and the view of its ledger."""

from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import confluent_kafka as ck
import redis

from infra.clients.topic_ids import topic_ids
from infra.settings import Settings
from infra.telemetry.metrics import Metrics
from schemas.codec import decode
from schemas.registry import Registry
from streams.consent.formats.gvl import GvlFolder
from streams.consent.ledger.ledger import Times
from streams.consent.ledger.store import LedgerSlice, RedisStateStore, merge_records
from streams.consent.policy import PACKAGED, Policy, load_policy
from streams.consent.stage import SIGNALS, STATE, ConsentDependencies, ConsentStage
from streams.runtime.follow import read_messages, topic_partitions

TIMEOUT_S = 5.0
DAY_S = 86_400


class PolicyWatcher:
    """Reloads the policy when its file has changed."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._loaded = self._stamp()

    def _stamp(self) -> tuple[int, int, int]:
        try:
            status = self._file.stat()
        except OSError:
            return (0, 0, 0)
        return status.st_mtime_ns, status.st_ino, status.st_size

    def changed(self) -> Policy | None:
        """The policy if its file has changed since the last call, else None. ConfigError, once, if it does not load."""
        stamp = self._stamp()
        if stamp == self._loaded:
            return None
        self._loaded = stamp
        return load_policy(self._file)


def build(settings: Settings, metrics: Metrics) -> ConsentStage:
    """The stage of one worker. ConfigError for a policy that does not load."""
    file = PolicyWatcher(settings.policy or PACKAGED)
    policy = load_policy(settings.policy or PACKAGED)
    registry = Registry(settings.contracts)
    states = open_states(settings, registry, policy.memory.max_age_days)
    key = settings.master.derive("consent/anonymous/v1")
    dependencies = ConsentDependencies(key, states, metrics, file.changed, GvlFolder(settings.gvl_dir), partitioner(settings))
    return ConsentStage(registry, policy, dependencies)


def partitioner(settings: Settings) -> Callable[[bytes], int]:
    """A function from subject to the partition of its records, by Kafka's default partitioner.

    It asks Kafka once for the number of partitions; Retryable.
    """
    from aiokafka.partitioner import murmur2

    @cache
    def partitions() -> int:
        return len(topic_partitions(settings, SIGNALS))

    return lambda subject: (murmur2(subject) & 0x7FFFFFFF) % partitions()


def open_states(settings: Settings, registry: Registry, keep_days: int) -> RedisStateStore:
    """The ledger's view in Redis, rebuilt from `consent.state` where needed. It connects with the first batch."""
    connect = partial(redis.Redis.from_url, settings.redis, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S)

    def read_state(record: ck.Message) -> tuple[str, Times | None, int]:
        times = None if record.value() is None else decode(registry, record.value())[1]["times"]
        return record.key().decode(), times, record.timestamp()[1]

    def changed(partition: int, since: int) -> Iterator[LedgerSlice]:
        for records in read_messages(settings, STATE, partition, since):
            yield merge_records(map(read_state, records))

    return RedisStateStore(connect, changed, keep_days * DAY_S, lambda: topic_ids(settings, [STATE]).get(STATE, ""))

"""Opens what the consent stage needs: its policy file, its key, and the view of its ledger."""

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
from streams.consent.ledger.store import LedgerSlice, RedisStateStore, piece_of
from streams.consent.policy import PACKAGED, Policy, load_policy
from streams.consent.stage import SIGNALS, STATE, ConsentDependencies, ConsentStage
from streams.runtime.follow import read_messages, topic_partitions

TIMEOUT_S = 5.0
DAY_S = 86_400


class PolicyWatcher:
    """Reads the policy again when its file has changed."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._seen = self._stamp()

    def _stamp(self) -> tuple[int, int, int]:
        try:
            status = self._file.stat()
        except OSError:
            return (0, 0, 0)
        return status.st_mtime_ns, status.st_ino, status.st_size

    def changed(self) -> Policy | None:
        """The policy if the file is another one than last time; ConfigError, once, if that one is broken or gone."""
        stamp = self._stamp()
        if stamp == self._seen:
            return None
        self._seen = stamp
        return load_policy(self._file)


def build(settings: Settings, metrics: Metrics) -> ConsentStage:
    """The stage of one worker. ConfigError for a policy that does not load: nothing passes without one."""
    file = PolicyWatcher(settings.policy or PACKAGED)
    policy = load_policy(settings.policy or PACKAGED)
    registry = Registry(settings.contracts)
    states = open_states(settings, registry, policy.memory.max_age_days)
    key = settings.master.derive("consent/anonymous/v1")
    dependencies = ConsentDependencies(key, states, metrics, file.changed, GvlFolder(settings.gvl_dir), partitioner(settings))
    return ConsentStage(registry, policy, dependencies)


def partitioner(settings: Settings) -> Callable[[bytes], int]:
    """Subject -> the partition where its own records lie, by Kafka's default partitioner. Kafka is asked once, for how many
    there are; Retryable while it does not say."""
    from aiokafka.partitioner import murmur2

    @cache
    def partitions() -> int:
        return len(topic_partitions(settings, SIGNALS))

    return lambda subject: (murmur2(subject) & 0x7FFFFFFF) % partitions()


def open_states(settings: Settings, registry: Registry, keep_days: int) -> RedisStateStore:
    """The ledger's view, built from `consent.state`. Redis is met with the first batch."""
    connect = partial(redis.Redis.from_url, settings.redis, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S)

    def said(record: ck.Message) -> tuple[str, Times | None, int]:
        times = None if record.value() is None else decode(registry, record.value())[1]["times"]
        return record.key().decode(), times, record.timestamp()[1]

    def changed(partition: int, since: int) -> Iterator[LedgerSlice]:
        for records in read_messages(settings, STATE, partition, since):
            yield piece_of(map(said, records))

    return RedisStateStore(connect, changed, keep_days * DAY_S, lambda: topic_ids(settings, [STATE]).get(STATE, ""))

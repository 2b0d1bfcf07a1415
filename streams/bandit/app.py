"""Builds the bandit's stage from the settings."""

import redis

from infra.settings import Settings
from infra.telemetry.metrics import Metrics
from schemas.registry import Registry
from streams.bandit.snapshots.publisher import Publisher
from streams.bandit.snapshots.store import RedisSnapshotStore
from streams.bandit.stage import BanditStage

TIMEOUT_S = 2.0


def build(settings: Settings, metrics: Metrics) -> BanditStage:
    """Build the stage of one worker."""
    registry = Registry(settings.contracts)
    client = redis.Redis.from_url(settings.redis, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S)
    return BanditStage(
        registry,
        settings.master.derive("decision-token"),
        Publisher(registry, RedisSnapshotStore(client), metrics),
        metrics,
    )

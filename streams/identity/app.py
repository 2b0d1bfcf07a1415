"""Opens what the identity stage needs: the graph in Redis."""

import redis

from infra.metrics import Metrics
from infra.settings import Settings
from schemas.registry import Registry
from streams.identity.nodes import alias
from streams.identity.stage import IdentityStage
from streams.identity.store import RedisStore

TIMEOUT_S = 5.0
CLUSTER = "cluster+"
"""Before the scheme of an address: any node of a Redis Cluster."""


def open_store(settings: Settings) -> RedisStore:
    """The graph. Redis is met with the first call."""
    url = settings.identity_redis or settings.redis
    timeouts = {"socket_timeout": TIMEOUT_S, "socket_connect_timeout": TIMEOUT_S}
    if url.startswith(CLUSTER):
        return RedisStore(lambda: redis.RedisCluster.from_url(url.removeprefix(CLUSTER), **timeouts))
    return RedisStore(lambda: redis.Redis.from_url(url, **timeouts))


def build(settings: Settings, metrics: Metrics) -> IdentityStage:
    """The stage of one worker; a Redis that may evict keys ends it with the first batch."""
    registry, sla_ms = Registry(settings.contracts), int(settings.privacy_sla_s * 1000)
    return IdentityStage(registry, open_store(settings), metrics, alias(settings.master), sla_ms)

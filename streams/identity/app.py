"""Opens what the identity stage needs: the graph in Redis."""

import redis

from infra.metrics import Metrics
from infra.settings import Settings
from schemas.registry import Registry
from streams.identity.stage import IdentityStage
from streams.identity.store import RedisStore

TIMEOUT_S = 5.0


def open_store(settings: Settings) -> RedisStore:
    """The graph. Redis is met with the first call."""
    return RedisStore(redis.Redis.from_url(settings.redis, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S))


def build(settings: Settings, metrics: Metrics) -> IdentityStage:
    """The stage of one worker; a Redis that may evict keys ends it with the first batch."""
    return IdentityStage(Registry(settings.contracts), open_store(settings), metrics, int(settings.privacy_sla_s * 1000))

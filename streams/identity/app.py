"""Opens what the identity stage needs: the graph in Redis."""

import redis

from infra.metrics import Metrics
from infra.settings import Settings
from schemas.registry import Registry
from streams.identity.stage import IdentityStage
from streams.identity.store import RedisStore

TIMEOUT_S = 5.0


def build(settings: Settings, metrics: Metrics) -> IdentityStage:
    """The stage of one worker. Redis is met with the first batch; one that may evict keys ends the worker then."""
    client = redis.Redis.from_url(settings.redis, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S)
    return IdentityStage(Registry(settings.contracts), RedisStore(client), metrics, int(settings.privacy_sla_s * 1000))

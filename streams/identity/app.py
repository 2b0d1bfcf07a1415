"""Opens what the identity stage needs: the graph in Redis."""

from urllib.parse import urlsplit

import redis
from redis.cluster import ClusterNode

from infra.errors import ConfigError
from infra.metrics import Metrics
from infra.settings import Settings
from schemas.registry import Registry
from streams.identity.nodes import alias
from streams.identity.stage import IdentityStage
from streams.identity.store import RedisStore

TIMEOUT_S = 5.0
CLUSTER = "cluster+"
"""Before the scheme of an address: one node of a Redis Cluster or more (host:port,host:port), of which one must answer."""


def open_store(settings: Settings) -> RedisStore:
    """The graph. Redis is met with the first call."""
    url = settings.identity_redis or settings.redis
    timeouts = {"socket_timeout": TIMEOUT_S, "socket_connect_timeout": TIMEOUT_S}
    if url.startswith(CLUSTER):
        seed, nodes = seeds(url.removeprefix(CLUSTER))
        others = [ClusterNode(*node) for node in nodes]  # type: ignore[no-untyped-call] # redis-py gives it no types
        return RedisStore(lambda: redis.RedisCluster.from_url(seed, startup_nodes=list(others), **timeouts))
    return RedisStore(lambda: redis.Redis.from_url(url, **timeouts))


def seeds(url: str) -> tuple[str, list[tuple[str, int]]]:
    """Address of the first of the nodes that an address names, and the others. ConfigError for one without a port."""
    parts = urlsplit(url)
    login, at, hosts = parts.netloc.rpartition("@")
    first, *others = hosts.split(",")
    split = [host.rpartition(":") for host in others]
    if not all(host and port.isdigit() for host, _, port in split):
        raise ConfigError("HEADWATER_IDENTITY_REDIS: each node of a cluster is host:port, with commas between")
    return parts._replace(netloc=f"{login}{at}{first}").geturl(), [(host, int(port)) for host, _, port in split]


def build(settings: Settings, metrics: Metrics) -> IdentityStage:
    """The stage of one worker; a Redis that may evict keys ends it with the first batch."""
    registry, sla_ms = Registry(settings.contracts), int(settings.privacy_sla_s * 1000)
    return IdentityStage(registry, open_store(settings), metrics, alias(settings.master), sla_ms)

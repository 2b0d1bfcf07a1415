"""Opens what the identity stage needs: the graph in Redis, and what mends it."""

from functools import partial
from typing import Any
from urllib.parse import urlsplit

import redis
from redis.cluster import ClusterNode

from infra.clients.topic_ids import topic_ids
from infra.errors import ConfigError
from infra.settings import Settings
from infra.telemetry.metrics import Metrics
from schemas.registry import Registry
from streams.identity.graph.fence import FencedStore, RebuiltStore
from streams.identity.graph.guard import RebuildGuard
from streams.identity.graph.redis_store import RedisGraphStore
from streams.identity.nodes import NodeKeys, alias
from streams.identity.repair.log import rebuild_if_stale
from streams.identity.stage import IdentityDependencies, IdentityStage
from streams.runtime.follow import read_range
from streams.runtime.stage import Batch

TIMEOUT_S = 5.0
CLUSTER = "cluster+"
"""Before the scheme of an address: one node of a Redis Cluster or more (host:port,host:port), of which one must answer."""


def connect(settings: Settings, **options: Any) -> redis.Redis | redis.RedisCluster:
    """A client of the graph's Redis, or of its Redis Cluster."""
    url, arguments = _address(settings), {"socket_timeout": TIMEOUT_S, "socket_connect_timeout": TIMEOUT_S, **options}
    if not url.startswith(CLUSTER):
        return redis.Redis.from_url(url, **arguments)
    seed, nodes = parse_seeds(url.removeprefix(CLUSTER))
    others = [ClusterNode(*node) for node in nodes]  # type: ignore[no-untyped-call] # redis-py gives it no types
    return redis.RedisCluster.from_url(seed, startup_nodes=others, **arguments)


def _address(settings: Settings) -> str:
    return settings.identity_redis or settings.redis


def open_store(settings: Settings) -> RedisGraphStore:
    """The graph as it is. Redis is met with the first call."""
    return RedisGraphStore(partial(connect, settings))


def open_rebuilt(settings: Settings) -> RebuiltStore:
    """The graph as it is, and its marks."""
    return RebuiltStore(partial(connect, settings))


def open_fenced(settings: Settings) -> FencedStore:
    """The graph as long as it is whole."""
    store: FencedStore

    def check_connection(connection: Any) -> None:
        if not _address(settings).startswith(CLUSTER):  # a cluster's client has done this
            connection.on_connect()
        store.check_connection(connection)

    store = FencedStore(partial(connect, settings, redis_connect_func=check_connection))
    return store


def read_back(settings: Settings, topic: str, partition: int, first: int, end: int) -> Batch:
    """See `ReadBack`."""
    topic_id = topic_ids(settings, [topic]).get(topic, "")
    messages = read_range(settings, topic, partition, first, end)
    keys, values = [message.key() for message in messages], [message.value() for message in messages]
    return Batch(topic, partition, keys, values, [message.offset() for message in messages], topic_id)


def parse_seeds(url: str) -> tuple[str, list[tuple[str, int]]]:
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
    kit = IdentityDependencies(
        alias(settings.master),
        RebuildGuard(partial(rebuild_if_stale, settings, open_rebuilt(settings), settings.slot), metrics),
        partial(read_back, settings),
        int(settings.privacy_sla_s * 1000),
        NodeKeys.of(settings).renamed,
    )
    return IdentityStage(Registry(settings.contracts), open_fenced(settings), metrics, kit)

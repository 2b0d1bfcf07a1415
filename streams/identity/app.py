"""Builds the identity stage: connects to the graph's Redis and rebuilds the graph when it was lost."""

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
"""Prefix of the scheme of a Redis Cluster's address: one or more nodes (host:port,host:port), one of which must answer."""


def connect(settings: Settings, **options: Any) -> redis.Redis | redis.RedisCluster:
    """Return a client of the graph's Redis or Redis Cluster; no connection is opened yet."""
    url, arguments = _address(settings), {"socket_timeout": TIMEOUT_S, "socket_connect_timeout": TIMEOUT_S, **options}
    if not url.startswith(CLUSTER):
        return redis.Redis.from_url(url, **arguments)
    seed, nodes = parse_seeds(url.removeprefix(CLUSTER))
    others = [ClusterNode(*node) for node in nodes]  # type: ignore[no-untyped-call] # redis-py gives it no types
    return redis.RedisCluster.from_url(seed, startup_nodes=others, **arguments)


def _address(settings: Settings) -> str:
    return settings.identity_redis or settings.redis


def open_store(settings: Settings) -> RedisGraphStore:
    """Return the graph's store without a check of completeness. The first call connects."""
    return RedisGraphStore(partial(connect, settings))


def open_rebuilt(settings: Settings) -> RebuiltStore:
    """Return the graph's store together with the marks that declare it complete."""
    return RebuiltStore(partial(connect, settings))


def open_fenced(settings: Settings) -> FencedStore:
    """Return the graph's store, which raises StaleStore unless every shard is marked as complete."""
    store: FencedStore

    def check_connection(connection: Any) -> None:
        if not _address(settings).startswith(CLUSTER):  # the cluster's client calls it itself
            connection.on_connect()
        store.check_connection(connection)

    store = FencedStore(partial(connect, settings, redis_connect_func=check_connection))
    return store


def read_back(settings: Settings, topic: str, partition: int, first: int, end: int) -> Batch:
    """Implement `ReadBack` on Kafka."""
    topic_id = topic_ids(settings, [topic]).get(topic, "")
    messages = read_range(settings, topic, partition, first, end)
    keys, values = [message.key() for message in messages], [message.value() for message in messages]
    return Batch(topic, partition, keys, values, [message.offset() for message in messages], topic_id)


def parse_seeds(url: str) -> tuple[str, list[tuple[str, int]]]:
    """Return the URL of the first node of an address, and (host, port) of the others. ConfigError without a port."""
    parts = urlsplit(url)
    login, at, hosts = parts.netloc.rpartition("@")
    first, *others = hosts.split(",")
    split = [host.rpartition(":") for host in others]
    if not all(host and port.isdigit() for host, _, port in split):
        raise ConfigError("HEADWATER_IDENTITY_REDIS: each node of a cluster is host:port, with commas between")
    return parts._replace(netloc=f"{login}{at}{first}").geturl(), [(host, int(port)) for host, _, port in split]


def build(settings: Settings, metrics: Metrics) -> IdentityStage:
    """Build the stage of one worker. ConfigError with the first batch where Redis may evict keys."""
    kit = IdentityDependencies(
        alias(settings.master),
        RebuildGuard(partial(rebuild_if_stale, settings, open_rebuilt(settings), settings.slot), metrics),
        partial(read_back, settings),
        int(settings.privacy_sla_s * 1000),
        NodeKeys.of(settings).renamed,
    )
    return IdentityStage(Registry(settings.contracts), open_fenced(settings), metrics, kit)

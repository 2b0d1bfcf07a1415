"""Round trips to the shards of a Redis or of a Redis Cluster, by hash tag."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import hiredis
import redis
from redis.crc import key_slot
from redis.exceptions import RedisClusterException

from infra.errors import ConfigError
from streams.identity.graph import scripts
from streams.identity.graph.store import StoreUnavailable

TAGS = 64
"""Redis Cluster hash tags: groups of keys that one MGET can read."""
TAG_OF_PREFIX = {f"{n:02x}": n % TAGS for n in range(256)}
BRACED_TAGS = [f"{{{tag:02x}}}" for tag in range(TAGS)]
CHUNK = 5_000
"""Keys of one MGET; Redis serves nobody else meanwhile."""
SCRIPT_CHUNK = 1_000
"""Keys or claims of one script call; Lua's `unpack` is bounded."""
Command = tuple[int, tuple[Any, ...]]
"""Hash tag of the target shard, and the words of the command."""
CONNECTION_ERRORS = (redis.RedisError, RedisClusterException)
"""Errors of an unavailable Redis or an incomplete cluster; the second does not derive from the first."""


class RedisShards:
    """Clients of all shards; connects with the first call."""

    def __init__(self, new_client: Callable[[], redis.Redis | redis.RedisCluster]) -> None:
        self._new_client = new_client
        self._client: redis.Redis | redis.RedisCluster | None = None
        self._clients: list[Any] = []
        """Client of each tag."""

    def _open(self) -> None:
        """Connect to the shards. ConfigError where one may evict keys."""
        client = self._client = self._new_client()
        if isinstance(client, redis.RedisCluster):
            nodes = [client.nodes_manager.get_node_from_slot(key_slot(f"{{{tag:02x}}}".encode())) for tag in range(TAGS)]
            shards = [client.get_redis_connection(node) for node in nodes]
        else:
            shards = [client] * TAGS
        for shard in {id(shard): shard for shard in shards}.values():
            policy = shard.info("memory").get("maxmemory_policy", "noeviction")
            if policy != "noeviction":
                raise ConfigError(
                    f"Redis has maxmemory-policy {policy}: it would forget links of the identity graph in silence. Set "
                    "`maxmemory-policy noeviction` there, or give it a Redis of its own (HEADWATER_IDENTITY_REDIS)"
                )
            for text in scripts.ALL:
                shard.script_load(text)
        self._clients = shards

    def connect(self) -> None:
        """Connect to the shards unless connected. Retryable; ConfigError."""
        if not self._clients:
            try:
                self._open()
            except CONNECTION_ERRORS as error:
                raise self.unavailable(error) from error

    def unavailable(self, error: Exception) -> StoreUnavailable:
        """Close and return the error to raise. The next call reconnects: shards may have moved, a new Redis has no scripts."""
        self.close()
        return StoreUnavailable(f"the identity graph's Redis: {type(error).__name__}")

    def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            self._client.close()
        self._client, self._clients = None, []

    def send(self, commands: Sequence[Command]) -> Callable[[], list[Any]]:
        """Send all commands, then read answers by the returned function, in order. Both raise Retryable."""
        pending: list[tuple[Any, Any, list[int]]] = []

        def give_up(error: Exception) -> StoreUnavailable:
            for pool, connection, _ in pending:
                connection.disconnect()  # unread answers would go to the next user of the connection
                pool.release(connection)
            return self.unavailable(error)

        def answers() -> list[Any]:
            responses: list[Any] = [None] * len(commands)
            try:
                while pending:
                    pool, connection, places = pending[0]
                    for at in places:
                        responses[at] = connection.read_response()
                    pool.release(connection)
                    del pending[0]
            except CONNECTION_ERRORS as error:
                raise give_up(error) from error
            return responses

        self.connect()
        by_shard: dict[int, list[int]] = {}
        for at, (tag, _) in enumerate(commands):
            by_shard.setdefault(id(self._clients[tag]), []).append(at)
        try:
            for places in by_shard.values():
                pool = self._clients[commands[places[0]][0]].connection_pool
                connection = pool.get_connection()
                pending.append((pool, connection, places))
                # Packed here: the client's own packing checks the type of each word and takes twice as long.
                packed = [hiredis.pack_command(commands[at][1]) for at in places]
                connection.send_packed_command([b"".join(packed)])
        except CONNECTION_ERRORS as error:
            raise give_up(error) from error
        return answers

    def run(self, commands: Sequence[Command]) -> list[Any]:
        """Return the answers of commands, one round trip a shard. Retryable."""
        return self.send(commands)()

    def run_script(self, script: str, kind: str, names: Sequence[str], *columns: Sequence[Any]) -> list[int]:
        """Return a script's answer for each name's key of a kind, in order; one call for each tag. Retryable.

        `columns`: the arguments, one sequence for each argument of the script.
        """
        by_tag: list[list[int]] = [[] for _ in range(TAGS)]
        for at, name in enumerate(names):
            by_tag[TAG_OF_PREFIX[name[1:3]]].append(at)
        parts: list[list[int]] = []
        commands: list[Command] = []
        for tag, all_places in enumerate(by_tag):
            prefix = f"{kind}:{BRACED_TAGS[tag]}:"
            for start in range(0, len(all_places), SCRIPT_CHUNK):
                places = all_places[start : start + SCRIPT_CHUNK]
                keys = [prefix + names[at] for at in places]
                arguments = [column[at] for at in places for column in columns]
                parts.append(places)
                commands.append((tag, ("EVALSHA", scripts.DIGESTS[script], len(keys), *keys, *arguments)))
        answers = [0] * len(names)
        for places, responses in zip(parts, self.run(commands), strict=True):
            for at, answer in zip(places, responses, strict=True):
                answers[at] = answer
        return answers

    def mget(self, keys: Sequence[tuple[int, str]]) -> list[bytes | None]:
        """Return the values of (tag, key) pairs, in few round trips. Retryable."""
        self.connect()
        # Tags matter only where there are several shards.
        groups: dict[int, list[int]] = {}
        if isinstance(self._client, redis.RedisCluster):
            for at, (tag, _) in enumerate(keys):
                groups.setdefault(tag, []).append(at)
        else:
            groups[0] = list(range(len(keys)))
        parts = [
            (tag, places[start : start + CHUNK]) for tag, places in groups.items() for start in range(0, len(places), CHUNK)
        ]
        responses = self.run([(tag, ("MGET", *(keys[at][1] for at in places))) for tag, places in parts])
        values: list[bytes | None] = [None] * len(keys)
        for (_, places), part_values in zip(parts, responses, strict=True):
            for at, value in zip(places, part_values, strict=True):
                values[at] = value
        return values

    def run_ids(self) -> dict[int, str]:
        """Return one tag of each shard -> run id of its Redis process. Retryable."""
        self.connect()
        tags: dict[int, int] = {}
        for tag, client in enumerate(self._clients):
            tags.setdefault(id(client), tag)
        try:
            return {tag: self._clients[tag].info("server")["run_id"] for tag in tags.values()}
        except CONNECTION_ERRORS as error:
            raise self.unavailable(error) from error

    def scan(self, pattern: str) -> Iterator[str]:
        """Yield the keys that match a pattern; keys written meanwhile may be missing or occur twice. Retryable."""
        self.connect()
        try:
            for client in {id(client): client for client in self._clients}.values():
                for key in client.scan_iter(match=pattern, count=1_000):
                    yield key.decode()
        except CONNECTION_ERRORS as error:
            raise self.unavailable(error) from error


def tag_of(node: str) -> int:
    """Return the hash tag of a node's keys."""
    return TAG_OF_PREFIX[node[1:3]]

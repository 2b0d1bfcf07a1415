"""A real Redis Cluster of three primaries on this machine, for tests."""

import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis
from redis.crc import key_slot

from infra.ops.embedded.ports import LOOPBACK, free_port, is_free
from infra.ops.embedded.servers.child import Child, Program
from infra.ops.embedded.servers.redis import answers, binary

PRIMARIES = 3
SLOTS = 16_384
BUS = 10_000
"""Offset of the cluster bus's port."""
START_S = 15.0
AGREE_S = 10.0


class LocalCluster:
    """A context manager; its data are in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self.nodes: list[Any] = []
        """A client of each primary (redis-py gives its raw commands no types)."""
        self.ports: list[int] = []

    @property
    def address(self) -> str:
        """Its address in the settings' form."""
        return f"cluster+redis://{LOOPBACK}:{self.ports[0]}"

    def connect(self) -> redis.RedisCluster:
        """Return a client of the cluster."""
        return redis.RedisCluster(host=LOOPBACK, port=self.ports[0])

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            children = [self._child(stack) for _ in range(PRIMARIES)]
            for child, port in zip(children, self.ports, strict=True):
                child.wait_ready(partial(answers, f"redis://{LOOPBACK}:{port}/0"), START_S)
                self.nodes.append(stack.enter_context(redis.Redis(port=port)))
            self._join()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def _child(self, stack: ExitStack) -> Child:
        port = next(port for port in iter(free_port, 0) if is_free(port + BUS))
        self.ports.append(port)
        folder = self._folder / str(port)
        folder.mkdir(parents=True)
        options = {
            "bind": LOOPBACK, "port": str(port), "dir": str(folder), "save": "", "cluster-enabled": "yes",
            "cluster-node-timeout": "15000", "maxmemory-policy": "noeviction",
        }  # fmt: skip
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        child = Child(Program("redis", [str(binary()), *words], folder / "redis.log", port=port))
        stack.callback(child.kill)
        return child

    def _join(self) -> None:
        """Assign slots to each server, and wait until all agree."""
        for at, node in enumerate(self.nodes):
            node.execute_command("CLUSTER SET-CONFIG-EPOCH", at + 1)
            node.execute_command("CLUSTER ADDSLOTS", *range(SLOTS * at // PRIMARIES, SLOTS * (at + 1) // PRIMARIES))
            for port in self.ports[:at]:
                node.execute_command("CLUSTER MEET", LOOPBACK, port)
        deadline = time.monotonic() + START_S
        while not all(self._whole(node) for node in self.nodes):
            assert time.monotonic() < deadline, "the cluster does not come together"
            time.sleep(0.05)

    def _whole(self, node: Any) -> bool:
        info: dict[str, str] = node.execute_command("CLUSTER INFO")
        return info["cluster_state"] == "ok" and info["cluster_known_nodes"] == str(PRIMARIES)

    def empty(self) -> None:
        """Delete every key."""
        for node in self.nodes:
            node.flushall()

    # -- resharding, as `redis-cli --cluster reshard` does it

    def owner(self, slot: int, member: int = 0) -> int:
        """Return the index of the slot's owner in `nodes`, according to one member."""
        for first, last, (_, port, *_rest), *_replicas in self.nodes[member].execute_command("CLUSTER SLOTS"):
            if first <= slot <= last:
                return self.ports.index(port)
        raise AssertionError(f"nobody has slot {slot}")

    def begin(self, slot: int, target: int) -> None:
        """Begin to move a slot: the source redirects requests for keys that it no longer has."""
        source = self.owner(slot)
        ids = self._ids()
        self.nodes[target].execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[source])
        self.nodes[source].execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[target])

    def carry(self, slot: int, target: int, most: int) -> int:
        """Move up to `most` keys of a slot; return their number."""
        source = self.nodes[self.owner(slot)]
        keys = source.execute_command("CLUSTER GETKEYSINSLOT", slot, most)
        if keys:
            source.execute_command("MIGRATE", LOOPBACK, self.ports[target], "", 0, 5_000, "KEYS", *keys)
        return len(keys)

    def end(self, slot: int, target: int) -> None:
        """Assign a moving slot to its new owner."""
        winner, deadline = self._ids()[target], time.monotonic() + AGREE_S
        # Older gossip may revert the assignment on a slow node.
        while True:
            for node in (self.nodes[target], *self.nodes):
                node.execute_command("CLUSTER SETSLOT", slot, "NODE", winner)
            if all(self.owner(slot, member) == target for member in range(len(self.nodes))):
                return
            assert time.monotonic() < deadline, f"the nodes do not agree on who has slot {slot}"
            time.sleep(0.05)

    def move(self, slot: int, target: int) -> None:
        """Move a slot with all its keys."""
        self.begin(slot, target)
        while self.carry(slot, target, 1_000):
            pass
        self.end(slot, target)

    def _ids(self) -> list[str]:
        return [node.execute_command("CLUSTER MYID").decode() for node in self.nodes]


def slot_of_tag(tag: int) -> int:
    """Return the slot of a hash tag."""
    return int(key_slot(f"{{{tag:02x}}}".encode()))

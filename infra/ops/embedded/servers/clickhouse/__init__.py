"""ClickHouse on this machine: the engine chDB in a process of its own, behind a loopback endpoint that speaks HTTP."""

from infra.ops.embedded.servers.clickhouse.process import EmbeddedClickHouse, command

__all__ = ["EmbeddedClickHouse", "command"]

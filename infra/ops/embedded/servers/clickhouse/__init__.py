"""ClickHouse on this machine: the engine chDB in its own process, behind ClickHouse's HTTP interface on loopback."""

from infra.ops.embedded.servers.clickhouse.process import EmbeddedClickHouse, command

__all__ = ["EmbeddedClickHouse", "command"]

"""Identity of the Redis process behind a connection: a restarted process may have lost its data."""

from typing import Any


def server_run_id(connection: Any) -> str:
    """Return the run id of the server process behind a new redis-py connection; it differs after each start. RedisError."""
    connection.send_command("INFO", "server")
    return parse_run_id(connection.read_response())


def parse_run_id(info: bytes) -> str:
    """Return the run id that an answer to `INFO server` names."""
    return str(dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)["run_id"])

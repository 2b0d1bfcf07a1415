"""Which Redis process one speaks to: one that was started again may have lost what it held."""

from typing import Any


def server_run_id(connection: Any) -> str:
    """The run id of the process that a new connection of redis-py leads to: another one at each start. RedisError."""
    connection.send_command("INFO", "server")
    text = connection.read_response()
    return str(dict(line.split(":", 1) for line in text.decode().splitlines() if ":" in line)["run_id"])

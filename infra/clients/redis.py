"""Identity of the Redis process behind a connection: a restarted process may have lost its data."""

from typing import Any


def server_run_id(connection: Any) -> str:
    """Return the run id of the server process behind a new redis-py connection; it differs after each start. RedisError."""
    connection.send_command("INFO", "server")
    text = connection.read_response()
    return str(dict(line.split(":", 1) for line in text.decode().splitlines() if ":" in line)["run_id"])

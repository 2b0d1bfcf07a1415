"""Ports on loopback: which are free, and which of ours stay the same over a restart."""

import random
import socket
import sys
from contextlib import suppress

LOOPBACK = "127.0.0.1"
# Below the range from which Linux takes the ports of outgoing connections (32768 upwards), so that a port that we keep
# while its server restarts is not given to somebody's client in the meantime.
LOWEST, HIGHEST = 20_000, 32_000
RESERVED = 64
_reservations: dict[int, socket.socket] = {}
"""The ports chosen last, which may not have their server yet."""


def is_free(port: int) -> bool:
    """Whether a server could listen on `port` of loopback now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def is_served(port: int, timeout_s: float = 0.5) -> bool:
    """Whether something accepts connections on `port` of loopback."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout_s):
            return True
    except OSError:
        return False


def free_port(preferred: int = 0) -> int:
    """`wanted` when it is free; otherwise any free port outside the range of outgoing connections.

    A port that was chosen is not chosen again, here or (on Linux) in another process, while its server is still starting.
    """
    if preferred and is_free(preferred):
        return preferred
    chooser = random.SystemRandom()
    for _ in range(1_000):
        port = chooser.randrange(LOWEST, HIGHEST)
        if is_free(port) and _reserve(port):
            return port
    raise OSError(f"no free port between {LOWEST} and {HIGHEST} on {LOOPBACK}")


def _reserve(port: int) -> bool:
    if port in _reservations:
        return False
    claim = socket.socket(socket.AF_UNIX)
    try:
        # An abstract name lives where ports live, in the network namespace, and ends with the process: no file to clean up.
        if sys.platform == "linux":
            claim.bind(f"\0headwater-port-{port}")
    except OSError:
        claim.close()
        return False
    _reservations[port] = claim
    if len(_reservations) > RESERVED:
        _reservations.pop(next(iter(_reservations))).close()
    return True


def describe_owner(port: int) -> str:
    """` by process N (name)` for a port that is taken, where this user may know; else nothing."""
    import psutil

    with suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.pid and getattr(connection.laddr, "port", 0) == port:
                return f" by process {connection.pid} ({psutil.Process(connection.pid).name()})"
    return ""

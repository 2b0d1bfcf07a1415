"""Free ports on loopback, reserved until their server listens."""

import random
import socket
import sys
from contextlib import suppress

LOOPBACK = "127.0.0.1"
# Below Linux's range for outgoing connections (32768 upwards), so that the port of a restarting server is not given to a
# client meanwhile.
LOWEST, HIGHEST = 20_000, 32_000
RESERVED = 64
_reservations: dict[int, socket.socket] = {}
"""Recently chosen ports, whose servers may not listen yet."""


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of loopback now."""
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
    """Return `preferred` where it is free; otherwise any free port outside the range of outgoing connections.

    A chosen port is not chosen again, here or (on Linux) in another process, while its server is starting.
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
        # An abstract socket name belongs to the network namespace, as ports do, and ends with the process.
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
    """Return ` by process N (name)` for a taken port, where this user may see it; else an empty text."""
    import psutil

    with suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.pid and getattr(connection.laddr, "port", 0) == port:
                return f" by process {connection.pid} ({psutil.Process(connection.pid).name()})"
    return ""

"""Ports: free ones are found, taken ones are noticed."""

import socket
import subprocess
import sys

import pytest

from infra.ops.embedded import ports
from infra.ops.embedded.ports import HIGHEST, LOOPBACK, LOWEST, describe_owner, free_port, is_free, is_served


def test_taken_port_is_noticed_and_avoided() -> None:
    """A port with a listener is not free, is served, and another one is chosen instead."""
    with socket.socket() as listener:
        listener.bind((LOOPBACK, free_port()))
        port = listener.getsockname()[1]
        assert not is_free(port)
        listener.listen()
        assert is_served(port)
        assert free_port(port) != port
        assert "python" in describe_owner(port) or "pytest" in describe_owner(port)
    assert is_free(port)
    assert not is_served(port)


def test_chosen_ports_are_not_those_of_outgoing_connections() -> None:
    """A port that we keep over a restart must not be given to a client meanwhile."""
    assert all(LOWEST <= free_port() < HIGHEST < 32_768 for _ in range(20))


def test_a_chosen_port_is_not_chosen_again_before_its_server_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chosen port is not chosen again, by this process or another: with one port in the range, the second call fails."""
    port = free_port()
    monkeypatch.setattr(ports, "LOWEST", port)
    monkeypatch.setattr(ports, "HIGHEST", port + 1)
    with pytest.raises(OSError, match="no free port"):
        free_port()
    program = f"from infra.ops.embedded import ports; ports.LOWEST, ports.HIGHEST = {port}, {port + 1}; ports.free_port()"
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "no free port" in other.stderr


def test_so_many_ports_may_be_chosen_as_one_likes() -> None:
    """The oldest reservations are released, so that open files stay bounded."""
    chosen = {free_port() for _ in range(3 * ports.RESERVED)}
    assert len(chosen) > 2 * ports.RESERVED
    assert len(ports._reservations) == ports.RESERVED

"""Ports: free ones are found, taken ones are noticed."""

import socket

from infra.embedded.ports import HIGHEST, LOOPBACK, LOWEST, free_port, is_free, is_served, owner


def test_taken_port_is_noticed_and_avoided() -> None:
    """A port with a listener is not free, is served, and another one is chosen instead."""
    with socket.socket() as listener:
        listener.bind((LOOPBACK, free_port()))
        port = listener.getsockname()[1]
        assert not is_free(port)
        listener.listen()
        assert is_served(port)
        assert free_port(port) != port
        assert "python" in owner(port) or "pytest" in owner(port)
    assert is_free(port)
    assert not is_served(port)


def test_chosen_ports_are_not_those_of_outgoing_connections() -> None:
    """A port that we keep over a restart must not be given to a client meanwhile."""
    assert all(LOWEST <= free_port() < HIGHEST < 32_768 for _ in range(20))

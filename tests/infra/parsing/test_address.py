"""Addresses as proxies and senders write them."""

import pytest

from infra.parsing.address import client_address, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        (" 192.0.2.1 ", "192.0.2.1"),
        ("192.0.2.1:443", "192.0.2.1"),
        ('"192.0.2.1"', "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ('"[2001:db8::1]:443"', "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("[fe80::1%25eth0]:80", "fe80::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("[::ffff:192.0.2.1]:443", "192.0.2.1"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
        ("", None),
        ("unknown", None),
        ("_hidden", None),
        ("192.0.2", None),
        ("192.0.2.256", None),
        ("010.0.0.1", None),
        ("192.0.2.1:", None),
        ("[192.0.2.1", None),
        ("1" * 5_000, None),
        ("shop.example", None),
    ],
)
def test_spellings(text: str, address: str | None) -> None:
    """Ports, brackets, zones, quotes and mapped addresses are read; anything else is none."""
    parsed = parse_address(text)
    assert (str(parsed) if parsed else None) == address


@pytest.mark.parametrize(
    ("forwarded", "proxies", "address"),
    [
        (["192.0.2.9, 198.51.100.1"], 0, "10.0.0.1"),
        (["192.0.2.9, 198.51.100.1"], 1, "198.51.100.1"),
        (["192.0.2.9, 198.51.100.1"], 2, "192.0.2.9"),
        (["192.0.2.9", "198.51.100.1"], 1, "198.51.100.1"),
        (["192.0.2.9"], 3, "192.0.2.9"),
        ([], 2, "10.0.0.1"),
        ([""], 1, "10.0.0.1"),
        (["192.0.2.9, unknown"], 1, ""),
        (["192.0.2.9, 198.51.100.1:80,"], 1, "198.51.100.1"),
    ],
)
def test_the_trusted_entry(forwarded: list[str], proxies: int, address: str) -> None:
    """It is counted from the end, over all headers; without any the connection's address counts."""
    assert client_address("10.0.0.1", forwarded, proxies) == address

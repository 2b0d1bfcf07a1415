"""Network addresses as proxies and senders write them. Pure."""

import ipaddress
import re
from collections.abc import Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_BRACKETED = re.compile(r"\[([^\]]*)\](?::\d{1,5})?")
_WITH_PORT = re.compile(r"([0-9.]+):\d{1,5}")
MAX_ADDRESS = 100
"""Characters of an address with brackets, zone and port."""


def parse_address(text: str) -> Address | None:
    """Return the IP address of a text; None where it has none.

    Blanks, quotes, brackets, a port and a zone id are passed over. `::ffff:1.2.3.4` is the IPv4 address that it contains.
    """
    text = text[:MAX_ADDRESS].strip().strip('"')
    if match := _BRACKETED.fullmatch(text) or _WITH_PORT.fullmatch(text):
        text = match[1]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address


def client_address(remote: str, forwarded: Sequence[str], trusted_proxies: int) -> str:
    """Return the address of a request's sender; empty where it cannot be read.

    Each trusted proxy appends the address that it saw to `forwarded` (the values of X-Forwarded-For), so the entry at this
    distance from the end is the one that the outermost trusted proxy wrote; what stands before it is the client's own claim.
    """
    entries = [entry for value in forwarded for entry in value.split(",") if entry.strip()] if trusted_proxies else []
    text = entries[-min(trusted_proxies, len(entries))] if entries else remote
    address = parse_address(text)
    return str(address) if address else ""


__all__ = ["Address", "client_address", "parse_address"]

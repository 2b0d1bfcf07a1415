"""Normalisation of sites, the hosts that events and choices belong to. Pure.

Consent is remembered by site, so the host of an address, the site of a choice and that of a write key must be equal texts
wherever they mean the same host.
"""

import ipaddress
import re
from functools import lru_cache
from urllib.parse import unquote

import idna

MAX_SITE = 253
"""Characters of the longest host name (RFC 1035)."""
MAX_AUTHORITY = 1_024
"""Characters of a host with its user and port that are looked at."""

_AUTHORITY = re.compile(r"(?:([A-Za-z][A-Za-z0-9+.\-]*):)?//([^/?#\\]*)")
_HOST = re.compile(rf"[^\s|/?#@\\:\[\]\x00-\x20\x7f]{{1,{MAX_SITE}}}")
_PORT = re.compile(r":[0-9]*$")
_WEB = frozenset({"http", "https"})


def site_of(text: str) -> str:
    """Return the site of a host name or an address, in lower case without port and trailing dot; empty where it names none.

    International names are written in punycode (UTS 46, as browsers do); IP addresses stay, IPv6 without brackets.
    """
    text = text.strip()
    match = _AUTHORITY.match(text)
    authority = match[2] if match else re.split(r"[/?#\\]", text, maxsplit=1)[0]
    return _site(authority) if len(authority) <= MAX_AUTHORITY else ""


def page_site(address: str) -> str:
    """Return the site of a web page's absolute address; empty for every other text, such as an app's address or a path."""
    match = _AUTHORITY.match(address.strip())
    if match is None or (match[1] is not None and match[1].lower() not in _WEB):
        return ""
    return _site(match[2]) if len(match[2]) <= MAX_AUTHORITY else ""


@lru_cache(8_192)
def _site(authority: str) -> str:
    host = authority.rpartition("@")[2].strip()
    if host.startswith("[") or host.count(":") > 1:
        return _ip(host[1:].partition("]")[0] if host.startswith("[") else host)
    host = _PORT.sub("", host)
    if "%" in host:
        host = unquote(host, errors="replace")
    if not host.isascii():
        try:
            host = idna.encode(host.rstrip(".。．｡"), uts46=True).decode()
        except (idna.IDNAError, UnicodeError):
            return ""
    host = host.rstrip(".").lower()
    return host if _HOST.fullmatch(host) and ".." not in host and not host.startswith(".") else ""


def _ip(text: str) -> str:
    try:
        return "" if "%" in text else str(ipaddress.IPv6Address(text))
    except ValueError:
        return ""


__all__ = ["MAX_SITE", "page_site", "site_of"]

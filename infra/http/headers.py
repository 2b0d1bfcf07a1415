"""Values of request headers that more than one server reads. Pure."""

import base64
import binascii
from collections.abc import Sequence


def bearer_token(authorization: str) -> str:
    """Return the token of `Authorization: Bearer <token>`; empty for another scheme."""
    scheme, _, token = authorization.partition(" ")
    return token if scheme.lower() == "bearer" else ""


def basic_user(authorization: str) -> str:
    """Return the user name of `Authorization: Basic`; empty for another scheme or where it is not base64 of UTF-8."""
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(encoded, validate=True).decode().partition(":")[0]
    except (binascii.Error, UnicodeDecodeError):
        return ""


def header_text(value: str) -> str:
    """Return a header's value as text that can be encoded: bytes that are no UTF-8, which aiohttp escapes, are replaced."""
    return value if value.isascii() else value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def gpc_objection(values: Sequence[str]) -> str:
    """Return the values of `Sec-GPC` as sent, joined by commas; empty where the header is absent, empty or 0."""
    objection = ", ".join(value for value in values if value.strip() not in ("", "0"))
    return objection.encode("ascii", "replace").decode()  # a header's bytes may be no UTF-8


__all__ = ["basic_user", "bearer_token", "gpc_objection", "header_text"]

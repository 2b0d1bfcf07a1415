"""The decision token: a signed description of one decision that the widget sends back with its events.

`base64url(payload).base64url(mac)`, both without padding. The payload is a JSON array, the MAC is HMAC-SHA256 over the
payload's text. It names no visitor: joining an event to its decision needs no identity.
"""

import base64
import binascii
import hashlib
import hmac
import json
from typing import Any, NamedTuple

VERSION = 1
MAX_TOKEN = 1_024
"""Longest accepted token, characters."""


class DecisionRef(NamedTuple):
    """The decision that a token describes."""

    decision_id: str
    experiment: str
    epoch: int
    arm: str
    group: str
    """bandit, control or canary."""
    propensity: float
    decided_ts: int
    """Milliseconds UTC."""


def sign(key: bytes, decision: DecisionRef) -> str:
    """Return the token of a decision. `key`: the installation's derived key `decision-token`."""
    payload = json.dumps([VERSION, *decision], separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    text = _encode(payload.encode())
    return f"{text}.{_mac(key, text)}"


def verify(key: bytes, token: str) -> DecisionRef | None:
    """Return the decision of a token, or None where this installation did not sign exactly this text."""
    if len(token) > MAX_TOKEN or not token.isascii():
        return None
    text, dot, mac = token.partition(".")
    # The MAC's text is compared, not its bytes: base64 has several spellings of one value, and only one is a token.
    if not dot or not hmac.compare_digest(_mac(key, text), mac):
        return None
    try:
        version, *fields = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (binascii.Error, ValueError, TypeError):
        return None
    return _check_fields(fields) if version == VERSION else None


def _check_fields(fields: list[Any]) -> DecisionRef | None:
    if len(fields) != len(DecisionRef._fields):
        return None
    decision_id, experiment, epoch, arm, group, propensity, decided_ts = fields
    if not all(isinstance(part, str) for part in (decision_id, experiment, arm, group)):
        return None
    if not (isinstance(epoch, int) and isinstance(decided_ts, int) and isinstance(propensity, int | float)):
        return None
    return DecisionRef(decision_id, experiment, epoch, arm, group, float(propensity), decided_ts)


def _mac(key: bytes, text: str) -> str:
    return _encode(hmac.new(key, text.encode(), hashlib.sha256).digest())


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

"""Encoder of IAB TCF 2.3 consent strings by the specification: core segment and disclosed vendors. Pure."""

import base64
from functools import lru_cache

DAY_MS = 86_400_000
CMP_ID, GVL_VERSION, POLICY_VERSION, VENDORS = 300, 210, 5, 30
PURPOSES = 24

Fields = tuple[tuple[int, int], ...]
"""(value, width in bits) in order."""


@lru_cache(16)
def tc_string(day_ms: int, *, grants: bool) -> str:
    """Return a string that grants or refuses every purpose, dated at the beginning of this day (milliseconds UTC)."""
    time = day_ms // DAY_MS * DAY_MS // 100
    every = -1 if grants else 0
    purposes, vendors = every & (1 << PURPOSES) - 1, every & (1 << VENDORS) - 1
    core: Fields = (
        (2, 6), (time, 36), (time, 36), (CMP_ID, 12), (1, 12), (1, 6), (_letters("EN"), 12), (GVL_VERSION, 12),
        (POLICY_VERSION, 6), (1, 1), (0, 1), (0, 12), (purposes, 24), (0, 24), (0, 1), (_letters("DE"), 12),
        (VENDORS, 16), (0, 1), (vendors, VENDORS), (0, 16), (0, 1), (0, 12),
    )  # fmt: skip
    disclosed: Fields = ((1, 3), (VENDORS, 16), (0, 1), ((1 << VENDORS) - 1, VENDORS))
    return f"{_segment(core)}.{_segment(disclosed)}"


def _letters(code: str) -> int:
    """Encode two letters, six bits each, A = 0."""
    return (ord(code[0]) - ord("A")) << 6 | ord(code[1]) - ord("A")


def _segment(fields: Fields) -> str:
    bits, width = 0, 0
    for value, size in fields:
        bits, width = bits << size | value, width + size
    spare = -width % 24
    data = (bits << spare).to_bytes((width + spare) // 8)
    return base64.urlsafe_b64encode(data).decode()[: -(-width // 6)]

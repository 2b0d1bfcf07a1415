"""Global Privacy Control: the `Sec-GPC` header, and `navigator.globalPrivacyControl` where a page sends it as a signal. Pure.

Source: W3C, "Global Privacy Control": the header's only value is `1`.
"""

from streams.consent.formats.signals import ConsentValue

OBJECTIONS = frozenset({"1", "true", "yes", "on"})
SILENT = frozenset({"", "0", "false"})


def gpc_word(text: str) -> ConsentValue:
    """DENY for an objection, UNKNOWN for silence; anything else is INVALID, and denies. Case and blanks do not matter."""
    value = text.strip().lower()
    if value in SILENT:
        return ConsentValue.UNKNOWN
    return ConsentValue.DENY if value in OBJECTIONS else ConsentValue.INVALID


__all__ = ["gpc_word"]

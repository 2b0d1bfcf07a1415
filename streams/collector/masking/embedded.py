"""E-mail addresses in base64 as parameter values. Pure."""

import binascii
import re
from collections.abc import Iterator

from streams.collector.masking.patterns import EMAIL, MaskSpan, address_spans

_GROUP = r"[A-Za-f][A-HQ-Xg-nw-z0-3][ABEFIJMNQRUVYZcdghklopstwx014589][A-Za-z0-9+/_-]"
"""Four base64 characters (RFC 4648) of bytes below 128; random ids fail to match within a group or two."""
_ASCII_IN_BASE64 = re.compile(rf"=(?=((?:{_GROUP}){{2,}}[A-Za-z0-9+/_-]{{0,3}}={{0,2}}))")


def base64_email_spans(text: str) -> Iterator[MaskSpan]:
    """Yield the parameter values that are an e-mail address in base64, of either alphabet, padded or not."""
    if "=" not in text:
        return
    for match in _ASCII_IN_BASE64.finditer(text):
        value = match[1]
        digits = value.rstrip("=").translate(_STANDARD)
        try:
            plain = binascii.a2b_base64(digits + "=" * (-len(digits) % 4)).decode("ascii")
        except (binascii.Error, UnicodeDecodeError):
            continue
        if any(span.label == EMAIL for span in address_spans(plain)):
            yield MaskSpan(match.start(1), match.end(1), EMAIL)


_STANDARD = str.maketrans("-_", "+/")

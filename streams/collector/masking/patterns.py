"""Finds e-mail addresses, phone numbers, IP addresses and values of personal fields in a decoded text. Pure.

Every search is linear in the length of the text: quantifiers are bounded, and the text before a mark (`@`, `=`) is matched
backwards from it.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from ipaddress import ip_address
from typing import NamedTuple

from streams.collector.masking.field_names import Category, category_of, is_flag


class MaskSpan(NamedTuple):
    """A span of a text, end exclusive, and the label that replaces it."""

    start: int
    end: int
    label: str


EMAIL, PHONE, IP, REMOVED = Category.EMAIL.value, Category.PHONE.value, Category.IP.value, Category.PERSONAL.value
LABELS = tuple(category.value for category in Category if category.is_masked)

MAX_LOCAL = 256
"""Characters before an `@`; RFC 5321 allows 64, and longer ones are masked too."""

_LOCAL_BACKWARDS = re.compile(r"(?:\)[^()@]{0,64}\((?=\w))?[\w.+\-'~$*^!%]*")
_QUOTED_LOCAL_BACKWARDS = re.compile(r'"([\w .+\-@]{1,64})"(?!\w)')
_DOMAIN = re.compile(r"(?:\w[\w-]{0,62}\.){1,32}[^\W\d_][\w-]{1,62}|\[[0-9A-Fa-f:.]{2,45}\]")
_IS_VERSION = re.compile(r"v?\d+\.\d")
_IS_PICTURE = re.compile(r"\dx\.(?:png|jpe?g|webp|gif|svg|avif)(?!\w)")
_USERINFO = re.compile(r"//([^/?#\s@\"'<>]{1,256})@(?=[\w\[])")

_DOT = r"(?:\.|\s?[(\[{<]\s?(?:dot|punkt|\.)\s?[)\]}>]\s?|\s(?:dot|punkt)\s)"
_SPOKEN_AT = re.compile(r"\s{0,2}[(\[{<]\s?(?:at|@|ät)\s?[)\]}>]\s{0,2}", re.IGNORECASE)
_SPOKEN_DOMAIN = re.compile(rf"(?:\w[\w-]{{0,62}}{_DOT}){{1,8}}[^\W\d_][\w-]{{1,62}}", re.IGNORECASE)
_BLANK_AT = re.compile(r" (?:at|@) ", re.IGNORECASE)
_SPELLED_DOMAIN = re.compile(r"(?:\w[\w-]{0,62}\s(?:dot|punkt)\s){1,4}[^\W\d_][\w-]{1,62}", re.IGNORECASE)
_SURE_LOCAL = re.compile(r"[^\W\d_]{2,}[._+-]\w")
"""Two words joined by a dot before ` at ` are a local part, a single word is not."""

_GAP = r"[ ().\-/_+~\u00b7\u2022\u2027\u2219]{0,6}"
_PHONE_PLUS = re.compile(rf"(?<![\w+])\+{_GAP}[1-9](?:{_GAP}\d){{7,15}}(?!\d)")
_PHONE_ZEROS = re.compile(rf"(?<![\w+,-])(?<!\d[.:])00{_GAP}[1-9](?:{_GAP}\d){{7,15}}(?![\w]|-\w)")
_ZEROS = re.compile(rf"00{_GAP}[1-9]")
_JOINING = frozenset("_+,-")
"""Characters before two zeros after which these are no phone prefix; nor are they after letters and digits."""
_PHONE_LINK = re.compile(r"(?<!\w)(?:tel|sms|callto):[ +(]{0,3}\d(?:[ ().\-/+]{0,3}\d){4,15}", re.IGNORECASE)
_CODE_BEFORE = re.compile(
    r"(?:gtin|ean|upc|sku|isbn|barcode|asin|mpn|item|product|article)\w{0,8}[\"']?\s?[:=/]?\s?[\"']?$", re.IGNORECASE
)

_IPV4 = re.compile(r"(?<!\d)(?<!\d\.)(?:\d{1,3}\.){3}\d{1,3}(?!\d|\.\d)")
_IPV6 = re.compile(r"(?<![0-9A-Fa-f:.])[0-9A-Fa-f:.]{3,64}(?![0-9A-Fa-f:.])")
_PRODUCT_BEFORE = re.compile(r"(?:^|[\s(;,\"'])[A-Za-z][\w.+-]{0,63}/$")
_VERSION_BEFORE = re.compile(
    r"(?:version|vers|ver|v|build|release|revision|firmware|android|ios|os|sdk)\w{0,8}[\"']?\s?[:=/ ]?\s?[\"']?$", re.IGNORECASE
)

_NAME_BACKWARDS = re.compile(r"[\w.\-\[\]$:%]{1,64}")
_QUERY_NAME = re.compile(r"[?&]([A-Za-z_][\w.-]{0,63})=")
_PARAMETER_VALUE = re.compile(r"\"[^\"]*\"?|'[^']*'?|[^&#;\s\"'<>]*")
_JSON_COLON = re.compile(r"[\"']\s{0,4}:\s{0,4}")
_JSON_VALUE = re.compile(r"\"([^\"]*)\"?|'([^']*)'?|\{[^{}]*\}?|\[[^\[\]]*\]?|[^\s,}\]]*")


def address_spans(text: str, category: Category = Category.OTHER) -> Iterator[MaskSpan]:
    """Yield e-mail addresses, phone numbers and IP addresses. `category` is that of the text's field."""
    if "@" in text:
        yield from _email_spans(text)
    yield from _spoken_email_spans(text)
    if "+" in text or "00" in text or ":" in text:
        yield from _phone_spans(text, category)
    yield from ip_spans(text, category)


def ip_spans(text: str, category: Category = Category.OTHER) -> Iterator[MaskSpan]:
    """Yield IP addresses. `category` is that of the text's field."""
    if text.count(".") >= 3:
        yield from _ipv4_spans(text, category)
    if text.count(":") >= 2:
        yield from _ipv6_spans(text)


def field_spans(text: str) -> Iterator[MaskSpan]:
    """Yield values of parameters (`user_id=17`) and JSON pairs (`"user_id": 17`) with a personal name."""
    if "=" in text and _may_hold_personal_parameter(text):
        yield from _parameter_spans(text)
    if ":" in text and ('"' in text or "'" in text):
        yield from _json_pair_spans(text)


def _email_spans(text: str) -> Iterator[MaskSpan]:
    if "//" in text:
        for match in _USERINFO.finditer(text):
            yield MaskSpan(match.start(1), match.end(1), REMOVED)
    at = text.find("@")
    while at >= 0:
        domain = _DOMAIN.match(text, at + 1)
        if domain and not _IS_VERSION.match(domain[0]) and not _IS_PICTURE.match(domain[0]):
            start = _local_start(text, at)
            if start < at:
                yield MaskSpan(start, domain.end(), EMAIL)
        at = text.find("@", at + 1)


def _local_start(text: str, at: int) -> int:
    """Return where the local part begins that ends at `at`; `at` where there is none."""
    backwards = text[max(0, at - MAX_LOCAL) : at][::-1]
    quoted = _QUOTED_LOCAL_BACKWARDS.match(backwards)
    if quoted and any(char.isalnum() for char in quoted[1]):
        return at - quoted.end()
    match = _LOCAL_BACKWARDS.match(backwards)
    start = at - (match.end() if match else 0)
    while start < at and text[start] in "'*!~%^$":
        start += 1
    return start


def _spoken_email_spans(text: str) -> Iterator[MaskSpan]:
    """Yield `name (at) host.example` in any bracket, `first.last at host.example`, `name at host dot example`."""
    if "(" in text or "[" in text or "{" in text or "<" in text:
        for mark in _SPOKEN_AT.finditer(text):
            domain = _SPOKEN_DOMAIN.match(text, mark.end())
            start = _local_start(text, mark.start())
            if domain and start < mark.start():
                yield MaskSpan(start, domain.end(), EMAIL)
    if " @ " in text or " at " in text.lower():
        for mark in _BLANK_AT.finditer(text):
            start = _local_start(text, mark.start())
            sure = _SURE_LOCAL.search(text, start, mark.start())
            domain = (_SPOKEN_DOMAIN if sure else _SPELLED_DOMAIN).match(text, mark.end())
            if domain and start < mark.start():
                yield MaskSpan(start, domain.end(), EMAIL)


def has_zero_prefix(text: str) -> bool:
    """Return whether a text may contain an international prefix of two zeros; cheaper than the pattern."""
    for match in _ZEROS.finditer(text):
        before = text[match.start() - 1] if match.start() else " "
        if not before.isalnum() and before not in _JOINING:
            return True
    return False


def _phone_spans(text: str, category: Category) -> Iterator[MaskSpan]:
    if "+" in text:
        for match in _PHONE_PLUS.finditer(text):
            yield MaskSpan(match.start(), match.end(), PHONE)
    if "00" in text:
        for match in _PHONE_ZEROS.finditer(text) if has_zero_prefix(text) else ():
            if not match[0].isdigit() or (_is_phone_length(match[0]) and not _is_article_number(text, match, category)):
                yield MaskSpan(match.start(), match.end(), PHONE)
    if ":" in text:
        for match in _PHONE_LINK.finditer(text):
            yield MaskSpan(match.start(), match.end(), PHONE)


def _is_phone_length(digits: str) -> bool:
    """Return whether digits without gaps have the length of a phone number (ITU-T E.164); zones 1 and 7 have ten digits."""
    return len(digits) == 13 if digits[2] in "17" else 11 <= len(digits) <= 16


def _is_article_number(text: str, match: re.Match[str], category: Category) -> bool:
    """Return whether a number is a GTIN with a valid check digit (GS1 General Specifications, 7.9) after a name of one."""
    digits = match[0]
    if len(digits) not in (13, 14):
        return False
    if category is not Category.CODE and not _CODE_BEFORE.search(text, max(0, match.start() - 24), match.start()):
        return False
    return sum(int(digit) * (3 if place % 2 else 1) for place, digit in enumerate(reversed(digits))) % 10 == 0


def _ipv4_spans(text: str, category: Category) -> Iterator[MaskSpan]:
    for match in _IPV4.finditer(text):
        start, end = match.span()
        octets = [int(octet) for octet in match[0].split(".")]
        if max(octets) > 255 or octets[0] in (0, 127) or max(octets) < 20:
            continue  # not an address, a loopback address, or a version or chapter number
        before = text[max(0, start - 66) : start]
        is_joined = before[-1:].isalpha() or before[-1:] == "_" or text[end : end + 1].isalpha()
        is_version = category is Category.VERSION or (before and _VERSION_BEFORE.search(before, max(0, len(before) - 24)))
        if before.endswith("/") and not before.endswith("//"):
            if _PRODUCT_BEFORE.search(before):
                if category is not Category.VERSION:
                    continue
            else:
                is_joined = True
        if (is_joined and not _looks_like_address(octets)) or (is_version and sum(octet >= 100 for octet in octets) < 2):
            continue
        yield MaskSpan(start, end, IP)


def _looks_like_address(octets: list[int]) -> bool:
    """Return whether four numbers look like an address: versions begin with low numbers or end in zero."""
    return octets[3] != 0 and (octets[0] >= 100 or sum(octet >= 100 for octet in octets) >= 2)


def _ipv6_spans(text: str) -> Iterator[MaskSpan]:
    for match in _IPV6.finditer(text):
        token = match[0]
        if token.count(":") < 2 or text[match.end() : match.end() + 1].isalpha():
            continue
        # A word may precede the first colon: `contact:2001:db8::1`.
        offsets = [0] if not text[match.start() - 1 : match.start()].isalpha() else []
        for offset in (*offsets, token.index(":") + 1):
            address = token[offset:].rstrip(".")
            address = address[:-1] if address.endswith(":") and not address.endswith("::") else address
            if _is_ipv6(address):
                start = match.start() + offset
                end = start + len(address)
                has_brackets = text[start - 1 : start] == "[" and text[end : end + 1] == "]"
                yield MaskSpan(start - has_brackets, end + has_brackets, IP)
                break


def _is_ipv6(token: str) -> bool:
    groups = [group for group in token.split(":") if group]
    if len(groups) + token.count(".") < 2 or not any(char.isdigit() for char in token):
        return False
    if len(groups) == 2 and len(groups[0]) < 4:  # `a1::b2` is a qualified name in many languages
        return False
    try:
        address = ip_address(token)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_unspecified)


def _may_hold_personal_parameter(text: str) -> bool:
    """Return False where all parameters are those of a URL and none has a personal name: one cached look-up for all."""
    names = _QUERY_NAME.findall(text)
    return len(names) != text.count("=") or _has_personal_name(tuple(names))


@lru_cache(maxsize=4_096)
def _has_personal_name(names: tuple[str, ...]) -> bool:
    """Cached, because the pages of a site mostly share their parameters."""
    return any(category_of(name).is_masked for name in names)


def _parameter_spans(text: str) -> Iterator[MaskSpan]:
    at, value_end = text.find("="), 0
    while at >= 0:
        following = at + 1
        name = text[max(value_end, at - 64) : at].rpartition("&")[2].rpartition("?")[2]
        if not name.isidentifier():
            match = _NAME_BACKWARDS.match(name[::-1])
            name = match[0][::-1] if match else ""
        category = category_of(name) if name else Category.OTHER
        value = _PARAMETER_VALUE.match(text, following) if category.is_masked else None
        if value:
            start, end = value.span()
            if end - start > 1 and text[start] in "\"'":
                start, end = start + 1, end - (text[end - 1] == text[start])
            value_end = following = value.end()
            yield from _value_spans(text, start, end, category)
        at = text.find("=", following)


def _json_pair_spans(text: str) -> Iterator[MaskSpan]:
    value_end = 0
    for colon in _JSON_COLON.finditer(text):
        if colon.start() < value_end:
            continue
        before = text[max(0, colon.start() - 66) : colon.start()]
        category = category_of(before[before.rfind(colon[0][0]) + 1 :])
        value = _JSON_VALUE.match(text, colon.end()) if category.is_masked else None
        if value:
            value_end = value.end()
            start, end = value.span(value.lastindex or 0)
            yield from _value_spans(text, start, end, category)


def _value_spans(text: str, start: int, end: int, category: Category) -> Iterator[MaskSpan]:
    """Yield the whole value of a field, unless it is a flag or masked already."""
    if start < end and not is_flag(text[start:end]) and not text.startswith(LABELS, start):
        yield MaskSpan(start, end, category.value)

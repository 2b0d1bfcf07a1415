"""Masks an event's own identifiers in all of its texts, whatever the fields are named. Pure."""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_address

from streams.collector.masking.decoding import Encoding, classify_encoding, decode_view, fold_text
from streams.collector.masking.patterns import EMAIL, IP, PHONE, MaskSpan
from streams.collector.masking.text import replace_spans, to_source_spans
from streams.identity.nodes import normalise

MIN_IDENTIFIER = 6
"""Characters: shorter identifiers occur in words and numbers by chance."""
MIN_DIGITS = 8
"""Digits of the shortest phone number that is searched without its plus and prefix."""
MAX_NEEDLES = 32
"""Spellings that are searched in one event; protocols have at most a dozen identifiers."""

ID = "[id]"
_LABELS = {"email": EMAIL, "phone": PHONE}
_SEPARATORS = r"[ ().\-/_+]{0,6}"
_NOT_DIGIT = re.compile(r"\D+")

Needle = tuple[str, str]
"""(spelling in lower case, label)."""


class OwnIdentifiers:
    """The spellings of one event's identifiers and IP addresses."""

    __slots__ = ("_needles", "_phone_forms")

    def __init__(self, identifiers: Sequence[tuple[str, str]], addresses: Iterable[str]) -> None:
        self._needles: list[Needle] = []
        self._phone_forms: list[str] = []
        for kind, value in identifiers:
            spelling = value.strip().lower()
            if len(spelling) >= MIN_IDENTIFIER:
                label = _LABELS.get(kind, ID)
                self._needles.append((spelling, label))
                if not spelling.isascii() or "%" in spelling or "&" in spelling or "\\" in spelling:
                    self._needles += [(form, label) for form in _alternative_forms(spelling)]
            if kind == "phone":
                self._phone_forms += _national_forms(spelling)
        for address in addresses:
            if len(address) >= MIN_IDENTIFIER and not address.startswith("127."):
                spelling = address.strip().lower()
                self._needles.append((spelling, IP))
                if ":" in spelling:
                    self._needles += [(form, IP) for form in _address_forms(spelling)]
        if len(self._needles) > MAX_NEEDLES:
            del self._needles[MAX_NEEDLES:]

    def are_absent(self, text: str) -> bool:
        """Return whether no identifier occurs in a text as it is, without decoding."""
        if not self._needles:
            return True
        lower = text.lower()
        for needle, _ in self._needles:
            if needle in lower:
                return False
        return not (self._phone_forms and self._has_phone(lower))

    def can_hide_in(self, text: str) -> bool:
        """Return whether a text must be decoded before identifiers can be found in it."""
        encoding = classify_encoding(text)
        return encoding is Encoding.ANY or (encoding is Encoding.SPACED and self._can_be_spaced())

    def _can_be_spaced(self) -> bool:
        joined = "".join([needle for needle, _ in self._needles])
        return bool(self._phone_forms) or " " in joined or "," in joined or "/" in joined or "|" in joined

    def mask(self, text: str) -> str:
        """Replace identifiers in a text by labels; the same object where there are none."""
        if not self._needles:
            return text
        if not self.can_hide_in(text):
            return text if self.are_absent(text) else replace_spans(text, self._spans(text))
        view = decode_view(text)
        if self.are_absent(view.text) and self.are_absent(text):
            return text
        return replace_spans(text, [*self._spans(text), *to_source_spans(view, self._spans(view.text))])

    def _has_phone(self, text: str) -> bool:
        digits = _NOT_DIGIT.sub("", text)
        return any(form in digits for form in self._phone_forms)

    def _spans(self, text: str) -> Iterator[MaskSpan]:
        lower = text.lower()
        if len(lower) != len(text):  # a letter whose lower case is two letters
            lower = text
        for needle, label in self._needles:
            start = lower.find(needle)
            # Junk (`undefined`, `anonymous`) identifies nobody and occurs in ordinary texts.
            if start >= 0 and normalise("user", needle) is None:
                continue
            while start >= 0:
                end = start + len(needle)
                if not (_is_number(needle) and _within_number(lower, start, end)):
                    yield MaskSpan(start, end, label)
                start = lower.find(needle, end)
        if self._phone_forms and self._has_phone(lower):
            for form in self._phone_forms:
                for match in re.finditer(rf"(?<!\d)\+?{_SEPARATORS.join(form)}(?!\d)", text):
                    yield MaskSpan(match.start(), match.end(), PHONE)


def _alternative_forms(spelling: str) -> set[str]:
    """Return a spelling decoded, composed, and without diacritics, as views may show it."""
    plain = decode_view(spelling).text
    forms = {plain, unicodedata.normalize("NFC", plain), fold_text(unicodedata.normalize("NFD", plain))}
    return {form.lower() for form in forms if len(form) >= MIN_IDENTIFIER} - {spelling}


def _national_forms(phone: str) -> list[str]:
    """Return the digits of an international number with two zeros, without a prefix, and in national notation."""
    digits = _NOT_DIGIT.sub("", phone)
    digits = digits[2:] if digits.startswith("00") else digits
    if len(digits) < MIN_DIGITS:
        return []
    national = [f"0{digits[length:]}" for length in (1, 2, 3) if len(digits) - length >= MIN_DIGITS - 2]
    return [f"00{digits}", digits, *national]


def _address_forms(address: str) -> set[str]:
    """Return the compressed and the exploded form of an IPv6 address."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return set()
    return {parsed.compressed, parsed.exploded} - {address}


def _is_number(needle: str) -> bool:
    return not any(char.isalpha() for char in needle)


def _within_number(text: str, start: int, end: int) -> bool:
    """Return whether digits continue on either side: the span is then part of another number."""
    return (text[start].isdigit() and text[max(0, start - 1) : start].isdigit()) or (
        text[end - 1].isdigit() and text[end : end + 1].isdigit()
    )

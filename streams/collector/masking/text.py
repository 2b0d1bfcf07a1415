"""Masks one text: replaces addresses and personal values, in any encoding, by labels. Pure but for a cache."""

import re
from collections.abc import Iterable
from functools import lru_cache

import orjson

from streams.collector.masking.decoding import MAX_CACHED, DecodedView, Encoding, classify_encoding, decode_view, fold_text
from streams.collector.masking.embedded import base64_email_spans
from streams.collector.masking.field_names import Category, is_flag
from streams.collector.masking.patterns import LABELS, REMOVED, MaskSpan, address_spans, field_spans, has_zero_prefix, ip_spans
from streams.collector.masking.values import MAX_DEPTH, mask_value

MIN_LENGTH = 6
"""Characters of the shortest address that is masked."""

MAX_PASSES = 3
"""Passes until nothing changes: once an address is replaced, a number that followed it without a blank can match."""

_SPOKEN_AT_END = re.compile(r"at ?[)\]}>]")
_DOTTED = re.compile(r"\.\d{1,3}\.\d{1,3}\.\d")
_COLONS = re.compile(r":[0-9A-Fa-f]{1,4}:[0-9A-Fa-f]{1,4}:")


def is_plain(text: str) -> bool:
    """Return True where nothing in a folded text needs a mask: cheap, and true of most texts. Texts may be joined by bars.

    False means that the text must be searched.
    """
    if "@" in text or "=" in text or "%" in text or "\\" in text or "+" in text or "&" in text:
        return False
    if ("00" in text and has_zero_prefix(text)) or ("." in text and _DOTTED.search(text)):
        return False
    if ":" in text and ('"' in text or "'" in text or "::" in text or _COLONS.search(text)):
        return False
    lower = text.lower()
    if ":" in text and ("tel:" in lower or "sms:" in lower or "callto:" in lower):
        return False
    has_closing_bracket = ")" in text or "]" in text or "}" in text or ">" in text
    return not (" at " in lower or (has_closing_bracket and _SPOKEN_AT_END.search(lower)))


def mask_text(text: str, category: Category = Category.OTHER, depth: int = 0) -> str:
    """Return the masked text; the same object where nothing is masked.

    `category` is that of the text's field: a personal field is masked as a whole. `depth` is the number of levels of values
    around the text.
    """
    if category.is_masked:
        return text if is_flag(text) or text in LABELS else category.value
    if len(text) < MIN_LENGTH:
        return text
    masked = _mask_cached(text, category, depth) if len(text) <= MAX_CACHED else _mask_until_stable(text, category, depth)
    return text if masked == text else masked  # the cache may return an equal text, which is another object


def _mask_until_stable(text: str, category: Category, depth: int) -> str:
    for _ in range(MAX_PASSES):
        masked = _mask_once(text, category, depth)
        if masked == text:
            return text
        text = masked
    return text


def _mask_once(text: str, category: Category, depth: int) -> str:
    if is_plain(fold_text(text)):
        return text
    if text.lstrip()[:1] in ("{", "["):
        masked = _mask_json(text, depth)
        if masked is not None:
            return masked
    encoding = classify_encoding(text)
    if encoding is Encoding.SPACED and _has_no_spaced_address(text):
        return replace_spans(text, [*field_spans(text), *ip_spans(text, category), *base64_email_spans(text)])
    if encoding is Encoding.NONE:
        return replace_spans(text, [*field_spans(text), *address_spans(text, category), *base64_email_spans(text)])
    view = decode_view(text)
    if not view.complete:
        return REMOVED
    spans = to_source_spans(view, [*address_spans(view.text, category), *base64_email_spans(view.text)])
    spans += field_spans(text)
    # Level by level, because a value may contain an encoded separator, which the next level decodes.
    for level, layers in view.levels:
        spans += to_source_spans(view, field_spans(level), layers)
    return replace_spans(text, spans)


def _has_no_spaced_address(text: str) -> bool:
    """Return True where a text has no e-mail address and no phone number that could contain encoded blanks."""
    if "+" in text or "@" in text or ("00" in text and has_zero_prefix(text)):
        return False
    lower = text.lower()
    return not (
        "at%20" in lower or "at)" in lower or "at]" in lower or "tel:" in lower or "sms:" in lower or "callto:" in lower
    )


_mask_cached = lru_cache(maxsize=4_096)(_mask_until_stable)


def _mask_json(text: str, depth: int) -> str | None:
    """Mask the values of a JSON text; None where the text is no JSON object or array."""
    if depth >= MAX_DEPTH:
        return REMOVED
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(value, dict | list):
        return None
    masked = mask_value(value, mask_text, depth=depth + 1)
    return text if masked is value else orjson.dumps(masked).decode()


def to_source_spans(view: DecodedView, spans: Iterable[MaskSpan], layers: int | None = None) -> list[MaskSpan]:
    """Map spans of a view, or of the level with this number of layers, to spans of its source."""
    return [MaskSpan(*view.source_span(start, end, layers), label) for start, end, label in spans]


def replace_spans(text: str, spans: Iterable[MaskSpan]) -> str:
    """Replace each span by its label. Overlapping spans become one, with the label of the longest."""
    sorted_spans = sorted(spans)
    if not sorted_spans:
        return text
    pieces: list[str] = []
    copied_end = 0
    start, end, label = sorted_spans[0]
    longest = end - start
    for span in sorted_spans[1:]:
        if span.start >= end:
            pieces += (text[copied_end:start], label)
            copied_end = end
            start, end, label = span
            longest = end - start
            continue
        end = max(end, span.end)
        if span.end - span.start > longest:
            longest, label = span.end - span.start, span.label
    pieces += (text[copied_end:start], label, text[end:])
    return "".join(pieces)

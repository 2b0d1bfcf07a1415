"""Masks all texts of one event by their content, by the names of their fields and by the event's own identifiers. Pure."""

import hmac
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from streams.collector.event import ProtocolEvent
from streams.collector.fields.repeated_keys import unused_name
from streams.collector.masking.decoding import fold_text
from streams.collector.masking.field_names import Category, category_of, is_flag
from streams.collector.masking.own_identifiers import OwnIdentifiers
from streams.collector.masking.text import is_plain, mask_text
from streams.collector.masking.values import TORN, collect_texts, has_personal_key, mask_value

SLACK = 4_096
"""Characters beyond a field's limit that are searched, so that no address is truncated before it is masked."""
ITEMS, TRAITS = "items", "traits"
"""Names of the objects around the fields of products, and of a person's properties."""
MAX_SIGNAL = 65_536
"""Characters of a consent signal; TC strings with many vendors have some thousands."""
LONGEST_SIGNAL_NAME = 128
"""Characters."""
MAX_WORD = 24
"""Characters of a consent value in words, such as `opted out`."""

OnMasked = Callable[[str], None]
"""Called with the masked name of each field in which something was masked."""


_own_identifiers = lru_cache(4_096)(OwnIdentifiers)  # the events of one visitor have the same


class EventMask:
    """The masks of one event. Most events need none, so all their short texts are checked at once."""

    __slots__ = ("_absent", "_event", "_on_masked", "_own", "_personal", "_plain")

    def __init__(self, event: ProtocolEvent, address: str, on_masked: OnMasked, agent: str = "") -> None:
        self._own = _own_identifiers(tuple(event.identifiers), (event.ip, address))
        self._on_masked = on_masked
        self._event = event
        texts = [event.event_id, event.name, event.order_id, event.tag_version, event.currency, event.decision_token]
        texts += (event.page_title, *event.click_ids, *event.click_ids.values(), *event.signals, *event.signals.values())
        texts += (event.session_id, event.group_id, event.language, event.screen, event.timezone)
        self._personal = collect_texts(event.properties, "", texts)
        if event.items:
            self._personal |= collect_texts(list(event.items), ITEMS, texts)
        if event.user_properties:
            self._personal |= collect_texts(event.user_properties, TRAITS, texts)
        joined = fold_text("|".join(texts))
        long = "|".join((joined, event.page_url, event.page_referrer, agent))
        self._absent = self._own.are_absent(long)
        self._plain = is_plain(joined) and (self._absent or self._own.are_absent(joined))

    def mask(self, text: str, category: Category = Category.OTHER, depth: int = 0) -> str:
        """Return the masked text; the same object where nothing is masked."""
        return mask_text(self._own.mask(text), category, depth)

    def mask_field(self, name: str, text: str, limit: int, category: Category = Category.OTHER) -> str:
        """Mask the text of a field, then truncate it to `limit` characters."""
        window = text if len(text) <= limit + SLACK else text[: limit + SLACK]
        without_identifiers = window if self._absent and not self._own.can_hide_in(window) else self._own.mask(window)
        masked = mask_text(without_identifiers, category)
        if masked is not window:
            self._on_masked(name)
        if window is not text:
            masked = masked[:-TORN]
        return masked if len(masked) <= limit else masked[:limit]

    def mask_short(self, name: str, text: str, limit: int, category: Category = Category.OTHER) -> str:
        """Do the same for one of the short texts that were checked together."""
        return text[:limit] if self._plain else self.mask_field(name, text, limit, category)

    def mask_event_id(self, event_id: str, key: bytes) -> str:
        """Return the id, or its pseudonym where it needs a mask: labels would make different ids equal."""
        if self._plain or self.mask(event_id) is event_id:
            return event_id
        return event_id_pseudonym(event_id, key)

    def mask_order_id(self, order_id: str, limit: int, key: bytes) -> str:
        """Mask an order id. A pseudonym after the label keeps different orders apart."""
        if self._plain or self.mask(order_id) is order_id:
            return order_id[:limit]
        digest = _pseudonym(key, "order", order_id)[:12]
        return f"{self.mask_field('order_id', order_id, limit - len(digest) - 1)}#{digest}"

    def mask_click_ids(self, values: Mapping[str, str], limit: int) -> dict[str, str]:
        """Mask the names and values of click ids."""
        if self._plain:
            return {name: text[:limit] for name, text in values.items()}
        masked: dict[str, str] = {}
        for name, text in values.items():
            masked_name = self.mask(name)
            masked[unused_name(masked_name, masked) if masked_name is not name else name] = self.mask_field(
                masked_name, text, limit, category_of(name)
            )
        return masked

    def mask_signals(self, signals: Mapping[str, str]) -> dict[str, str]:
        """Mask consent signals. None is lost: equal masked names are numbered, and consent reads a masked value as denied."""
        if (
            self._plain
            and not has_personal_key("", tuple(signals))
            and max(map(len, signals), default=0) <= LONGEST_SIGNAL_NAME
        ):
            return dict(signals)
        masked: dict[str, str] = {}
        for name, text in signals.items():
            category = category_of(name)
            if category in (Category.EMAIL, Category.PHONE) and _is_word(text):
                category = Category.OTHER  # consent to e-mails or calls, not an address
            masked_name = self.mask(name)
            if len(masked_name) > LONGEST_SIGNAL_NAME:
                masked_name = masked_name[:LONGEST_SIGNAL_NAME]
            masked[unused_name(masked_name, masked) if masked_name is not name else name] = self.mask_field(
                masked_name, text, MAX_SIGNAL, category
            )
        return masked

    def mask_properties(self) -> Mapping[str, Any]:
        """Mask names and values of the properties, at any depth; the same object where nothing is masked."""
        properties = self._event.properties
        if self._plain and not self._personal:
            return properties
        masked: dict[str, Any] = {}
        for name, value in properties.items():
            masked_name = self.mask(name)
            masked_value = mask_value(value, self.mask, name, category_of(name))
            if masked_value is not value or masked_name is not name:
                self._on_masked(masked_name)
            masked[unused_name(masked_name, masked) if masked_name is not name else name] = masked_value
        return masked

    def mask_items(self) -> Sequence[Mapping[str, Any]]:
        """Mask the products; the same objects where nothing is masked."""
        items = self._event.items
        return items if self._plain and not self._personal else self._mask_nested(ITEMS, list(items))

    def mask_traits(self) -> Mapping[str, Any]:
        """Mask the person's properties, whose names are read as those of traits: `name` is a person's name."""
        traits = self._event.user_properties
        return traits if self._plain and not self._personal else self._mask_nested(TRAITS, dict(traits))

    def _mask_nested(self, name: str, value: Any) -> Any:
        masked = mask_value(value, self.mask, name)
        if masked is not value:
            self._on_masked(name)
        return masked


def event_id_pseudonym(event_id: str, key: bytes) -> str:
    """Return what replaces an event id that needs a mask. Whoever looks for an event by its id looks for this one too."""
    return _pseudonym(key, "event", event_id)[:32]


def _is_word(text: str) -> bool:
    """Return whether a text is a word, as consent values are: no address and no number."""
    return is_flag(text) or (len(text) <= MAX_WORD and text.replace("_", "").replace("-", "").replace(" ", "").isalpha())


def _pseudonym(key: bytes, kind: str, value: str) -> str:
    # Keyed, because a plain hash of a known address can be guessed.
    return hmac.digest(key, f"{kind}/{value}".encode("utf-8", "surrogatepass"), "sha256").hex()

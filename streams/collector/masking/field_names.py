"""Categories of fields by their names: which hold an id, an address or a number of a person. Pure but for its cache.

Names are compared in snake case: `userId`, `USER-ID`, `user[id]` and `user.id` are `user_id`.
"""

import re
from enum import Enum
from functools import lru_cache

from streams.collector.masking.decoding import decode_view

MAX_CLASSIFIED = 256
"""Characters at the end of a name that are classified: the end of a name is its noun."""


class Category(Enum):
    """What a field contains, judged by its name."""

    OTHER = ""
    """Unknown: the value is searched for addresses."""
    VERSION = "version"
    """A version number, which looks like an IPv4 address."""
    CODE = "code"
    """An article number, which may look like a phone number."""
    USER_ID = "[user id]"
    EMAIL = "[email]"
    PHONE = "[phone]"
    IP = "[ip]"
    PERSONAL = "[removed]"
    """A name, a home address, a date of birth."""

    @property
    def is_masked(self) -> bool:
        """Whether every value is masked; `value` is the label."""
        return self not in _SEARCHED

    __hash__ = object.__hash__  # faster than the enum's own, which is Python code


_SEARCHED = frozenset({Category.OTHER, Category.VERSION, Category.CODE})

_HASHED = r"(?:_?(?:hash(?:ed)?|sha_?\d*+|md_?5|plain|raw|lower|value|\d++))*+"
"""Suffixes that do not change whose value it is. Possessive, because senders choose the names."""
_OWNER = r"(?:^|_|user|customer|client|contact|login|billing|shipping|guest|buyer|hashed|sha_?256|md_?5)"
_PERSON = (
    r"(?:user|customer|client|visitor|member|subscriber|anonymous|anon|device|person|contact|shopper|guest|buyer|patient|employee"
    r"|player|recipient|viewer|distinct|advertising|install|installation|app_?instance|cookie|browser|profile|login|crm|loyalty"
    r"|kunden?|(?:^|_)(?:external|cust|usr)|(?:^|user_?|customer_?)account)"
)
_CONTAINER = re.compile(r"(?:^|_)(?:user_?data|ud|user_?info|user_?provided_?data|address_?data)_")
_RULES: tuple[tuple[Category, re.Pattern[str]], ...] = (
    (Category.OTHER, re.compile(r"(?:^|_)(?:is|has|can|opt_?in|opt_?out)_[a-z]+(?:_[a-z]+){0,2}$")),
    (
        Category.USER_ID,
        re.compile(
            _PERSON + r"_?(?:ids?|uid|uuid|guid|identifier|number|nummer|num|no|nr|key)" + _HASHED + "$"
            r"|(?:^|_)(?:uid|cuid|duid|nuid|tnuid|puid|idfa|idfv|gaid|aaid|oaid)" + _HASHED + "$"
            r"|(?:user|login|nick)_?name" + _HASHED + "$"
        ),
    ),
    (Category.EMAIL, re.compile(_OWNER + r"_?(?:e_?)?mails?_?(?:address(?:es)?|addr|adresse|id)?" + _HASHED + "$")),
    (
        Category.PHONE,
        re.compile(
            _OWNER + r"_?(?:(?:tele|mobile_?|cell_?|work_?|home_?)?phones?"
            r"|mobile?|msisdn|telefon[oe]?|tel|rufnummer|fax|handy|whats_?app)"
            r"_?(?:number|nummer|num|no|nr|phone|e_?164)?" + _HASHED + "$"
        ),
    ),
    (
        Category.IP,
        re.compile(
            r"(?:^|_)ip(?:_?(?:address|addr|adresse|override|v_?[46]))?$"
            r"|(?:user|client|remote|visitor|source|real|connecting|anonymized)_?ip(?:_?(?:address|addr|v_?[46]))?$"
            r"|(?:^|_)(?:uip|remote_?addr|(?:x_?)?forwarded_?for)$"
        ),
    ),
    (
        Category.PERSONAL,
        re.compile(
            r"(?:first|last|given|family|middle|maiden|full|sur|customer|contact|person|vor|nach)_?name" + _HASHED + "$"
            r"|(?:date_?of_?birth|birth_?date|birth_?day|(?:^|_)dob)$"
            r"|(?:^|_)street(?:_?(?:address|name|line))?" + _HASHED + "$"
            r"|(?:billing|shipping|delivery|home|postal|mailing|customer|user)_?address(?:_?line)?" + _HASHED + "$"
            r"|address_?line_?\d$|house_?number$"
            r"|(?:^|_)traits_(?:name|avatar|website|id|address_(?:street|postal_?code|zip))$"
        ),
    ),
    (
        Category.VERSION,
        re.compile(r"(?:version|(?:^|_)(?:ver|build|firmware|release|revision|sdk|os))(?:_?(?:code|name|number|no|full))?$"),
    ),
    (
        Category.CODE,
        re.compile(
            r"(?:^|_)(?:gtin|ean|upc|sku|isbn|barcode|asin|mpn)_?\d*$"
            r"|(?:item|product|article|variant|content)_?(?:ids?|code|number|no|nr|ref)$"
        ),
    ),
)
"""In order; the first match counts."""

_COOKIES = frozenset({"_ga", "_gid", "_fbp"})
"""Cookies that identify a browser. They are compared before the conversion to snake case, which drops the underscore."""

_REPEAT = re.compile(r"#\d+(?=\.|$)")
"""What keeps the values of a repeated name apart."""
_WORDS = re.compile(r"IPv[46]|[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+|[^\W\d_A-Za-z]+")


@lru_cache(maxsize=16_384)
def category_of(name: str) -> Category:
    """Return the category of a field with this name, or with this path of names joined by dots."""
    name = _REPEAT.sub("", decode_view(name[-MAX_CLASSIFIED:]).text)
    if re.split(r"[.\[\]\s]", name.rstrip("] "))[-1] in _COOKIES:
        return Category.USER_ID
    snake = "_".join(_WORDS.findall(name)).lower()
    for category, pattern in _RULES:
        if pattern.search(snake):
            return category
    return Category.PERSONAL if _CONTAINER.search(snake) else Category.OTHER


FLAG_WORDS = frozenset(
    {"", "true", "false", "yes", "no", "on", "off", "0", "1", "null", "none", "undefined", "granted", "denied", "unknown"}
)
"""Values that identify nobody under any name: `email=1` is a ticked box."""


def is_flag(value: str) -> bool:
    """Return whether a value is a yes, a no or empty."""
    return len(value) <= 9 and value.strip().lower() in FLAG_WORDS

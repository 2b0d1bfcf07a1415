"""The monetary value of an event: which of its fields state one. Pure."""

import re

from infra.parsing.money import Money
from streams.collector.fields.reader import FieldReader

MAX_CURRENCY = 8
_COMMERCE = re.compile(
    r"purchas|order|checkout|cart|basket|refund|payment|transaction|(?:^|[^a-z])sales?(?:[^a-z]|$)|subscri|donat|deposit|invoice"
    r"|booking|wish_?list|(?:^|[^a-z])lead(?:[^a-z]|$)|conversion|revenue",
    re.IGNORECASE,
)


def read_amount(event_name: str, fields: FieldReader, *, is_commerce: bool = False) -> tuple[float, str]:
    """Return (value, currency). `is_commerce`: the event has an order or products.

    `value` and `total` are money only where the event is about money: it has a currency, a revenue, an order or products, or
    its name says so. Elsewhere they stay among the properties: a form field's text is no money.
    """
    currency = read_currency(fields)
    if not (is_commerce or currency or fields.fields.get("revenue") is not None or _COMMERCE.search(event_name)):
        return 0.0, ""
    money: Money = fields.money("value", "revenue", "total")
    return money.amount, currency or money.currency


def read_currency(fields: FieldReader, *names: str) -> str:
    """Return the currency as sent. One that is too long for a code is noted and left over."""
    for name in names or ("currency",):
        value = fields.fields.get(name)
        if isinstance(value, str | int | float) and len(str(value).strip()) > MAX_CURRENCY:
            fields.note(name, "a currency's code such as EUR")
        elif currency := fields.text(name):
            return currency.strip()
    return ""


__all__ = ["read_amount", "read_currency"]

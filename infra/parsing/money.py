"""Amounts of money as people and shops write them. Pure."""

import re
from math import isfinite
from typing import NamedTuple

MAX_TEXT = 64  # characters

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
_SPACES = re.compile(r"[\s\u00a0\u2007\u2009\u202f]+")
_GROUPS = {
    "point": re.compile(
        r"[0-9]{1,3}(?:,[0-9]{3})+\.[0-9]+|[0-9]{1,3}(?:,[0-9]{3}){2,}|[0-9]{1,3}(?:['’ ][0-9]{3})+(?:\.[0-9]+)?"
    ),
    "comma": re.compile(
        r"[0-9]{1,3}(?:\.[0-9]{3})+,[0-9]+|[0-9]{1,3}(?:\.[0-9]{3}){2,}|[0-9]{1,3}(?:['’ ][0-9]{3})+,[0-9]+"
        r"|[0-9]+,(?:[0-9]{1,2}|[0-9]{4,})"
    ),
}
"""Decimal mark -> amounts that cannot be read with the other mark. `1,234` fits neither: it may be 1.234 or 1234."""
_CODES = (
    "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CLP "
    "CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF "
    "IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD "
    "MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB "
    "RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD "
    "UYU UZS VED VES VND VUV WST XAF XCD XOF XPF YER ZAR ZMW ZWG "
)
CURRENCIES = frozenset(_CODES.split())
"""Codes of ISO 4217 that are in use."""
_SYMBOLS = {"€": "EUR", "£": "GBP", "₹": "INR", "₽": "RUB", "₺": "TRY", "₴": "UAH", "₩": "KRW", "₪": "ILS", "zł": "PLN"}
"""Signs of one currency only: `$`, `¥` and `kr` belong to several."""
_THOUSANDS = re.compile(r"[0-9]{1,3}\.[0-9]{3}")
_SIGN = re.compile(r"[$¥€£₹₽₺₴₩₪]|zł|kr\.?|Kč|[A-Z]{3}|(?:US|CA|AU|NZ|HK|S|R|C|A)\$")
_AMOUNT = re.compile(
    rf"(?P<minus>[-\u2212]?) ?(?P<before>{_SIGN.pattern})? ?(?P<inner>[-\u2212+]?)(?P<digits>[0-9][0-9.,'’ ]*?)"
    rf"(?:,-|,–|\.-)? ?(?P<after>{_SIGN.pattern})?"
)


class Money(NamedTuple):
    """An amount, and the ISO 4217 code that stands beside it."""

    amount: float
    currency: str
    """Empty where none stands there, or the sign belongs to several currencies."""


def parse_money(value: object) -> Money | None:
    """Return the amount that a number or a text states; None where there is none, or where it can be read in two ways.

    Read are numbers, numeric texts (`19.90`, `1e3`), and amounts with decimal commas, grouped thousands and a currency before
    or behind (`19,90`, `$1,234.50`, `1.234,50 €`, `12 345,60`, `EUR 49`). `1,234` is None: thousands or decimals.
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return _finite(value, "")
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        return None
    text = _SPACES.sub(" ", value).strip()
    if _NUMBER.fullmatch(text):
        return _finite(text, "")
    match = _AMOUNT.fullmatch(text)
    if match is None or (match["before"] and match["after"]) or (match["minus"] and match["inner"]):
        return None
    sign = match["before"] or match["after"] or ""
    if sign.isalpha() and sign.isupper() and sign not in CURRENCIES:
        return None
    written = match["digits"].rstrip()
    # A currency shows that a person wrote it, who may group thousands by a point: `1.234 €`.
    digits = "" if sign and _THOUSANDS.fullmatch(written) else _plain_number(written)
    currency = _SYMBOLS.get(sign, sign if sign in CURRENCIES else "")
    negative = match["minus"] or match["inner"] in ("-", "\u2212")
    return _finite(f"-{digits}" if negative else digits, currency) if digits else None


def _plain_number(digits: str) -> str:
    """Return the digits with a decimal point and without groups; empty where they can be read in two ways."""
    if _NUMBER.fullmatch(digits):
        return digits
    if _GROUPS["point"].fullmatch(digits):
        return re.sub(r"[,'’ ]", "", digits)
    if _GROUPS["comma"].fullmatch(digits):
        return re.sub(r"[.'’ ]", "", digits).replace(",", ".")
    return ""


def _finite(number: float | str, currency: str) -> Money | None:
    try:
        amount = float(number)
    except OverflowError:
        return None
    return Money(amount, currency) if isfinite(amount) else None


__all__ = ["Money", "parse_money"]

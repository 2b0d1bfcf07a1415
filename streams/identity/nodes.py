"""Identity nodes: keyed digests of normalised identifiers. Pure; the collector and the decisions API use it too.

A node is a tier digit and 32 hexadecimal characters of HMAC-SHA256(key[type], type || normalised value), cut to 16 bytes. Tiers
order nodes by stability; of two nodes the smaller string is the stronger one. Each later version of the keys derives its node
from the previous one: HMAC-SHA256(key[tier, version], node), cut likewise. So whoever has the keys can tell that two nodes
belong to one identifier, and whoever has only the older key cannot compute the newer node.
"""

import hmac
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple
from urllib.parse import unquote

import idna
import phonenumbers

from infra.secrets import Secret
from infra.settings import Settings
from streams.identity.junk import has_template, is_junk, is_junk_address, is_junk_number, is_template

TIERS: Mapping[str, str] = {"user": "0", "device": "1", "cookie": "2", "email": "3", "phone": "3"}
"""Identifier type -> tier digit."""

_EMAIL = re.compile(r"^[^@\s]+@[^@\s]+\.[^@\s.]+$")
_E164 = re.compile(r"^\+[1-9][0-9]{6,14}$")  # ITU-T E.164: a plus and at most 15 digits
_COUNTRY_ALIASES = {"UK": "GB", "EL": "GR"}
_LETTERS = re.compile(r"[^\W\d_]")
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x9f\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
)
"""Control characters, soft hyphens, zero-width characters, direction marks: copied along unseen."""
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: 0x20, 0x3002: 0x2E}
_QUOTES = (
    ('"', '"'),
    ("'", "'"),
    ("`", "`"),
    ("%22", "%22"),
    ("%27", "%27"),
    ("&quot;", "&quot;"),
    ("“", "”"),
    ("„", "“"),
    ("«", "»"),
)
_DISPLAY_NAME = re.compile(r"<\s*([^<>\s]+@[^<>\s]+)\s*>$")
_OPENING, _CLOSING = "<([{\"'`“”„‘’‚«»‹›,;:. \t\r\n", ">)]}\"'`“”„‘’‚«»‹›,;:.!?* \t\r\n\\"
_ANALYTICS = re.compile(r"^GA\d\.\d+(?:-\d+)?\.(.+)$")
"""Value of a `_ga` cookie: version, depth of domain and path, and the client id that libraries extract."""
_INTEGRAL = re.compile(r"^(-?\d+)\.0+$")
_UUID = re.compile(r"^(?:urn:uuid:)?(\{)?([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(?(1)\})$", re.IGNORECASE)
_DIGEST = re.compile(r"^(?:[0-9A-F]{32}|[0-9A-F]{40}|[0-9A-F]{64})$")

MAX_LENGTH = 512
EXACT_FLOATS = 2**53
"""Below it each integer is a float of its own (IEEE 754)."""


def normalise(kind: str, value: str, region: str = "") -> str | None:
    """Return the canonical spelling of an identifier, or None where it is none.

    `kind` is a key of `TIERS`; `region` the visitor's, ISO 3166 (`DE`, `US-CA`): a phone number in national form is accepted
    only with a region.
    """
    if len(value) > MAX_LENGTH:
        value = value.strip()
        if len(value) > MAX_LENGTH:
            return None
    if not value.isascii() or not value.isprintable():
        value = unicodedata.normalize("NFC", _INVISIBLE.sub("", value))
    value = value.strip()
    if kind == "email":
        return _email(value)
    if kind == "phone":
        return _phone(value, region)
    return _opaque(value)


def identifier_text(value: str | float) -> str:
    """Return an identifier that was sent as JSON as text; empty where it is a number that may have lost digits.

    A parser gives integers exactly, and every other number as a float: a fraction, such as the `1122334455.1690000021` of a
    browser's client id, or an integer beyond 2**53 is rounded, so that it may be the id of another visitor.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return ""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < EXACT_FLOATS else ""
    return str(value)


def _opaque(value: str) -> str | None:
    """Normalise an id of a user, a device or a browser: unchanged, except for what tools add to it."""
    if not value[:1].isalnum():
        value = _unquoted(value)
    if value.startswith("GA") and (client := _ANALYTICS.match(value)):
        value = client[1]
    elif value.endswith("0") and (number := _INTEGRAL.match(value)):
        value = number[1]  # data frames turn integers into floats where a value is missing
    elif len(value) >= 32:
        if form := _UUID.match(value):
            value = form[2].lower()
        elif _DIGEST.match(value):
            value = value.lower()
    return None if is_junk(value) else value


def _unquoted(value: str) -> str:
    """Strip quotation marks, which cookies that hold JSON have."""
    while quotes := next((pair for pair in _QUOTES if _is_quoted(value, *pair)), None):
        value = value[len(quotes[0]) : -len(quotes[1])].strip()
    return value


def _is_quoted(value: str, opening: str, closing: str) -> bool:
    return value.startswith(opening) and value.endswith(closing) and len(value) >= len(opening) + len(closing)


def _email(value: str) -> str | None:
    """Normalise an address to lower case, its domain to ASCII (RFC 5891). Dots and tags of the local part stay."""
    if "@" not in value and "%40" in value:
        value = unquote(value)
    if has_template(value) or is_template(value.partition("@")[0]):
        return None
    value = value.lower() if value.isascii() else unicodedata.normalize("NFC", value.translate(_FULL_WIDTH).lower())
    before = None
    while value != before:
        before, value = value, value.lstrip(_OPENING).removeprefix("mailto:")
        if named_address := _DISPLAY_NAME.search(value):
            value = named_address[1]
        value = value.rstrip(_CLOSING)
    local, at, domain = value.partition("@")
    if "?" in domain:
        domain = domain.partition("?")[0].rstrip(_CLOSING)  # header fields of a `mailto:` URI, RFC 6068
    ascii_domain = domain if domain.isascii() else _ascii_domain(domain)
    if ascii_domain is None or not _EMAIL.match(value := local + at + ascii_domain) or is_junk_address(local, ascii_domain):
        return None
    return value


def _ascii_domain(domain: str) -> str | None:
    """Return the punycode of an internationalised domain."""
    try:
        return idna.encode(domain, uts46=True).decode("ascii")
    except idna.IDNAError:
        try:  # symbols, which registries allowed before RFC 5891
            return domain.encode("idna").decode("ascii")
        except UnicodeError:
            return None


def _phone(value: str, region: str) -> str | None:
    """Normalise a number to E.164. One without a country code must be valid in the region, because it is a guess."""
    if value.lower().startswith("tel:"):
        value = value[4:].partition(";")[0]
    value = _unquoted(value).translate(_FULL_WIDTH)
    if _LETTERS.search(value) or is_junk(value):
        return None
    digits = value.lstrip("( ")
    if digits.startswith("00"):
        value = "+" + digits[2:]
    elif digits.startswith("+"):
        value = digits
    else:
        country = region.replace("_", "-").partition("-")[0].upper()
        country = _COUNTRY_ALIASES.get(country, country)
        number = _number(value, country) if country in phonenumbers.SUPPORTED_REGIONS else None
        return _e164(number) if number is not None and phonenumbers.is_valid_number(number) else None
    number = _number(value, None)
    if "(0)" in value and (number is None or not phonenumbers.is_valid_number(number)):
        # Some people write a trunk prefix even for countries without one.
        number = _number(value.replace("(0)", "", 1), None) or number
    return _e164(number) if number is not None and phonenumbers.is_possible_number(number) else None


def _number(value: str, country: str | None) -> phonenumbers.PhoneNumber | None:
    try:
        return phonenumbers.parse(value, country)
    except phonenumbers.NumberParseException:
        return None


def _e164(number: phonenumbers.PhoneNumber) -> str | None:
    text = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    return text if _E164.match(text) and not is_junk_number(str(number.national_number)) else None


@dataclass(frozen=True)
class NodeKeys:
    """The keys of all versions."""

    first: Mapping[str, bytes]
    """Identifier type -> key of the first version."""
    later: tuple[Mapping[str, bytes], ...] = ()
    """Tier -> key, for each later version."""
    since: int = 1
    """The oldest version in use beside the newest."""

    @classmethod
    def derive(cls, secret: Secret, version: int = 1, since: int | None = None) -> "NodeKeys":
        """Derive the keys from the master secret; `since` defaults to `version`."""
        later = range(2, version + 1)
        return cls(
            {kind: secret.derive(f"node/{kind}/v1") for kind in TIERS},
            tuple({tier: secret.derive(f"node/tier{tier}/v{n}") for tier in TIERS.values()} for n in later),
            since or version,
        )

    @classmethod
    def of(cls, settings: Settings) -> "NodeKeys":
        """Derive the keys that the settings name. ConfigError without a master secret."""
        return cls.derive(settings.master, settings.node_key_version, settings.node_key_since)

    def renamed(self, combinations: Iterable[Sequence[str]]) -> dict[str, str]:
        """Map former nodes to the newer node of the same identifier, where a tuple (strongest first) has both.

        All versions are tried, because events sent while two were in use may arrive later.
        """
        newer_names: dict[str, str] = {}
        for nodes in combinations if self.later else ():
            for tier in {node[0] for node, other in pairwise(nodes) if node[0] == other[0]}:
                among = {node for node in nodes if node[0] == tier}
                steps = [keys[tier] for keys in self.later]
                newer_names.update(
                    (former, newer) for former in among for key in steps if (newer := _cut(key, former)) in among
                )
        return newer_names

    def later_nodes(self, nodes: Iterable[str]) -> set[str]:
        """Return the nodes that these become under later versions; the version of a given node is unknown."""
        result = set[str]()
        for node in nodes:
            for first in range(len(self.later)):
                at = node
                for keys in self.later[first:]:
                    at = _cut(keys[at[0]], at)
                    result.add(at)
        return result

    def newer(self, former: str) -> str:
        """Return a node of the version before the newest in the newest version. LookupError with only one version."""
        return _cut(self.later[-1][former[0]], former)


def versions(keys: NodeKeys, kind: str, value: str, region: str = "") -> list[str]:
    """Return the nodes of one identifier under all versions, oldest first; none where the value is blocked or invalid."""
    normal = normalise(kind, value, region)
    if normal is None:
        return []
    tier = TIERS[kind]
    nodes = [tier + hmac.digest(keys.first[kind], kind.encode() + normal.encode(), "sha256")[:16].hex()]
    for later in keys.later:
        nodes.append(_cut(later[tier], nodes[-1]))
    return nodes


def node(keys: NodeKeys, kind: str, value: str, region: str = "") -> str | None:
    """Return the node of one identifier, or None where the value is blocked or invalid."""
    nodes = versions(keys, kind, value, region)
    return nodes[-1] if nodes else None


class EventNodes(NamedTuple):
    """The nodes of an event's identifiers."""

    subject: str | None
    """The strongest node of the oldest version in use, which keys the event's records until it has a profile; it stays the same
    while keys are rotated. None without identifiers."""
    nodes: list[str]
    """Strongest first; a node for each version in use."""


def event_nodes(keys: NodeKeys, identifiers: Iterable[tuple[str, str]], region: str = "") -> EventNodes:
    """Return the nodes of an event's identifiers (type, value); `region` as in `normalise`."""
    nodes_by_identifier = [
        names[keys.since - 1 :] for kind, value in identifiers if (names := versions(keys, kind, value, region))
    ]
    return EventNodes(
        min((names[0] for names in nodes_by_identifier), default=None),
        sorted({name for names in nodes_by_identifier for name in names}),
    )


def all_nodes(keys: NodeKeys, identifiers: Iterable[tuple[str, str]], region: str = "") -> list[str]:
    """Return the nodes of identifiers under all versions, including those no longer in use; strongest first."""
    return sorted({name for kind, value in identifiers for name in versions(keys, kind, value, region)})


def _cut(key: bytes, former: str) -> str:
    return former[0] + hmac.digest(key, former.encode(), "sha256")[:16].hex()


Alias = Callable[[str, int], str]
"""(Node, epoch of its slot) -> profile id of its events while it neither links nor attributes."""


def alias(secret: Secret) -> Alias:
    """Return a function that derives an id that no other node's events carry, different for each epoch."""
    key = secret.derive("alias/v1")
    return lambda node, epoch: node[0] + hmac.digest(key, f"{node}|{epoch}".encode(), "sha256")[:16].hex()
